"""Scans in, prepared volumes out: catalogue, reading, preprocessing, the store, sampling, made-up cohorts."""
