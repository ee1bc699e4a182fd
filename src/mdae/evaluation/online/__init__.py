"""Probes while a pre-training goes on: what its features tell so far, of whom it does not learn from."""
