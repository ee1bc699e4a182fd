"""Scans to features: encoders, sliding windows, and what was computed once."""
