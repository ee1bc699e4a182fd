"""Benchmark tasks: what is asked of which data set, and how each data set lies on disk."""

from mdae.tasks.record import LabelRule, Reference, Task

__all__ = ["LabelRule", "Reference", "Task"]
