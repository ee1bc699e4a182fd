"""A fitted model in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mdae.evaluation.statistics.intervals import Estimate
from mdae.inference.fitted import FittedModel
from mdae.inference.masks import FittedMasks
from mdae.text import counted


def fitted_lines(model: FittedModel | FittedMasks, out: Path) -> Iterator[str]:
    """What was read, how well it does on new subjects, and where it is."""
    about = model.about
    counts = about["fitted_on"]["subjects_by_label"]
    shown = ", ".join(f"{number} {name}" for name, number in counts.items())
    number = about["fitted_on"]["num_subjects"]
    yield f"{about['kind']} of {about['label']}: {counted(number, 'subject')}" + (
        f" ({shown})" if len(counts) > 1 else ""
    )
    for name, figure in model.expected.items():
        known = f"{figure['value']:.3f}" if figure["low"] is None else str(Estimate(**figure))
        yield f"  {name.replace('_', ' ')} on new subjects: {known}"
    yield f"  {about['expected']['how']}"
    yield f"fitted: {out}"
