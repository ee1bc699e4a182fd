"""Shapes, spacings and the choices that options name. Axes are those of the RAS image: (D, H, W) = (x, y, z)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

Shape3: TypeAlias = tuple[int, int, int]
Spacing: TypeAlias = tuple[float, float, float]

NoiseKind: TypeAlias = Literal["ve", "vp", "flow", "none"]
Weighting: TypeAlias = Literal["inverse_error", "uniform", "min_snr"]


def shape3(values: Iterable[Any]) -> Shape3:
    """Three numbers of any kind as a shape; raises `ValueError` for more or fewer, or what is no number."""
    x, y, z = values
    return int(x), int(y), int(z)
