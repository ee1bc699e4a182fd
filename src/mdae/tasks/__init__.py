"""Benchmark tasks: what is asked of which data set, and how each data set lies on disk."""
