"""Frozen features judged by a model with one thing to choose."""
