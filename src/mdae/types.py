"""Shapes, spacings and the choices that options name. Axes are those of the RAS image: (D, H, W) = (x, y, z)."""

from __future__ import annotations

from typing import Literal, TypeAlias

Shape3: TypeAlias = tuple[int, int, int]
Spacing: TypeAlias = tuple[float, float, float]

NoiseKind: TypeAlias = Literal["ve", "vp", "flow", "none"]
Weighting: TypeAlias = Literal["inverse_error", "uniform", "min_snr"]
