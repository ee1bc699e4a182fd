"""What is foreground in a prepared volume: the one definition, of arrays and of tensors."""

from __future__ import annotations

from typing import TypeVar

ABOVE_BACKGROUND = 0.25  # standard deviations: more than noise in air, less than nearly all tissue
Values = TypeVar("Values")


def is_foreground(values: Values, background: object) -> Values:
    """Where values (in standard deviations) differ from the background's by more than a trifle; bool, NaN is not.

    On either side: the background is dark in most scans, bright in inverted ones, and 0 where z-scores were padded.

    Args:
        values: an array or tensor of any shape.
        background: a number, or an array or tensor that broadcasts.
    """
    return abs(values - background) > ABOVE_BACKGROUND  # type: ignore[no-any-return,operator,arg-type]
