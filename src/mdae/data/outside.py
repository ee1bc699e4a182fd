"""What of a prepared scan lies outside of what a model was trained on, in words."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from mdae.data.intensity import Window
from mdae.data.modality import CT_STANDARDISED
from mdae.data.preprocess import PreparedRecord, Preprocessing
from mdae.types import Shape3

COARSE = 6.0  # times the contract's spacing: thicker slices than this deserve a warning
SMALL = 0.5  # of the patch: a field of view smaller than this is mostly padding
FLAT, FEW = 0.05, 0.005  # standard deviations from the median; the share of voxels that are farther, at least
ALIKE = 0.3  # correlation of neighbours: tissue has 0.7 and more, noise none
MIDDLE = 96  # voxels a side that are looked at
CONTENT, MODALITY = "its features may not hold there", "not the modality that the model was trained on"


def outside(
    data: np.ndarray,
    record: PreparedRecord,
    contract: Preprocessing,
    patch: Shape3,
    modalities: Collection[str] = (),
) -> tuple[str, ...]:
    """All that is to be told of a scan that a model is shown, "KIND: detail" each, its record's notes first.

    Args:
        data, record: a scan prepared by the contract, (D, H, W).
        contract: of the model.
        patch: its window in voxels.
        modalities: that it was trained on, in DICOM's words; empty where nobody knows.
    """
    found = [note for note in record.notes if not note.startswith(CT_STANDARDISED)]  # advice for who prepares
    coarsest = max(s / c for s, c in zip(record.source_spacing_mm, contract.spacing_mm, strict=True))
    if coarsest > COARSE:
        found.append(f"voxels much coarser than the model was trained on, {CONTENT}: {coarsest:.1f} times")
    covered = min(side / edge for side, edge in zip(data.shape, patch, strict=True))
    if covered < SMALL:
        found.append(
            f"a field of view that hardly fills the model's window, {CONTENT}: {covered:.0%} of a side"
        )
    found += _modality(record.modality, contract, modalities)
    data = data[tuple(slice(max(0, (n - MIDDLE) // 2), (n + MIDDLE) // 2) for n in data.shape)]
    steps = [max(1, round(s / c)) for s, c in zip(record.source_spacing_mm, contract.spacing_mm, strict=True)]
    if float((np.abs(data - np.nanmedian(data)) > FLAT).mean()) < FEW:
        found.append(f"a volume that is all but constant, {CONTENT}")
    elif (alike := _neighbours(data, steps)) < ALIKE:
        found.append(f"a volume like noise, {CONTENT}: neighbours correlate by {alike:.2f}")
    return tuple(found)


def _modality(modality: str, contract: Preprocessing, known: Collection[str]) -> list[str]:
    """A scan of another modality, as far as it and the model's are known; windows are told of in the record."""
    if known and modality and modality not in known:
        return [f"{MODALITY}: {modality}, not {' or '.join(sorted(known))}"]
    if not known and modality == "CT" and not isinstance(contract.intensity, Window):
        return [f"{MODALITY}: CT, by a contract of {contract.intensity}"]
    return []


def _neighbours(data: np.ndarray, steps: list[int]) -> float:
    """The largest correlation of voxels with those one voxel of the source farther, over the three axes."""
    best = 0.0
    for axis, step in enumerate(steps):
        if data.shape[axis] <= 2 * step:
            continue
        moved = np.moveaxis(data, axis, 0)
        first, second = moved[:-step].ravel().astype(np.float64), moved[step:].ravel().astype(np.float64)
        kept = np.isfinite(first) & np.isfinite(second)
        first, second = first[kept] - first[kept].mean(), second[kept] - second[kept].mean()
        spread = float(np.sqrt((first @ first) * (second @ second)))
        best = max(best, float(first @ second) / spread if spread else 0.0)
    return best
