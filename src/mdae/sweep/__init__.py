"""A table of pre-training runs that differ in what is asked about, each judged on the same tasks."""
