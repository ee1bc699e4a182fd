"""Figures with intervals, and tests between encoders."""
