"""Encoders side by side: compared, drawn, and written as tables and a page."""
