"""What the values of a mask mean: as they lie in the file, as nnU-Net is given them, and what is scored.

BraTS (and UCSF-PDGM, which labels as BraTS does) is trained on the organisers' three overlapping regions, with labels
in nnU-Net's own order for it: 1 oedema, 2 necrotic core, 3 enhancing tumour. The regions are what counts; the other
labels are scored besides. Raw data sets of nnU-Net keep their own labels or regions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mdae.errors import DataError

Values = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LabelScheme:
    """How masks are read and scored.

    Attributes:
        values: from a value in the file to nnU-Net's, consecutive from 0.
        nnunet: the `labels` of nnU-Net's dataset.json.
        order: its `regions_class_order`, for overlapping regions.
        classes: what is trained on and scored, nnU-Net's values by name; their mean is the task's figure.
        parts: what is scored besides.
        ignore: nnU-Net's value of voxels that nobody labelled, which are not scored.
    """

    values: Mapping[int, int]
    nnunet: Mapping[str, int | list[int]]
    order: Values = ()
    classes: Mapping[str, Values]
    parts: Mapping[str, Values] = field(default_factory=dict)
    ignore: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """What nnU-Net's dataset.json says of the labels."""
        order = {"regions_class_order": list(self.order)} if self.order else {}
        return {"labels": dict(self.nnunet), **order}


def brats_labels(enhancing: int) -> LabelScheme:
    """BraTS' labels and regions; the enhancing tumour is 4 in its files up to 2022 and 3 afterwards."""
    regions: dict[str, Values] = {"whole_tumour": (1, 2, 3), "tumour_core": (2, 3), "enhancing_tumour": (3,)}
    return LabelScheme(
        values={0: 0, 2: 1, 1: 2, enhancing: 3},
        nnunet={"background": 0, **{name: list(values) for name, values in regions.items()}},
        order=(1, 2, 3),
        classes=regions,
        parts={"oedema": (1,), "necrotic_core": (2,)},  # the enhancing tumour is a region already
    )


BY_LAYOUT = {"brats18": brats_labels(4), "ucsf-pdgm": brats_labels(4), "brats23": brats_labels(3)}


def described_labels(about: Mapping[str, Any]) -> LabelScheme:
    """The labels or regions of a raw data set, as its dataset.json says; gaps (0, 2, 4) are closed."""
    labels = {str(name): value for name, value in about["labels"].items()}
    ignore = labels.pop("ignore", None)
    classes = {name: _values(value) for name, value in labels.items() if name != "background"}
    known = sorted({0, *(value for values in classes.values() for value in values)} - {ignore})
    numbers = {value: number for number, value in enumerate([*known, *([ignore] if ignore else [])])}
    return LabelScheme(
        values=numbers,
        nnunet={name: _renumbered(value, numbers) for name, value in about["labels"].items()},
        order=tuple(numbers[int(value)] for value in about.get("regions_class_order") or ()),
        classes={_word(name): tuple(numbers[v] for v in values) for name, values in classes.items()},
        ignore=numbers[ignore] if ignore else None,
    )


def _renumbered(value: int | list[int], numbers: Mapping[int, int]) -> int | list[int]:
    return [numbers[int(v)] for v in value] if isinstance(value, list | tuple) else numbers[int(value)]


def found_labels(values: set[int]) -> LabelScheme:
    """Labels of masks that nobody has described: each value that occurs is a class of its own.

    Raises:
        DataError: no value but 0.
    """
    foreground = sorted(values - {0})
    if not foreground:
        raise DataError("no mask has a voxel that is not 0", mend="check the segmentations")
    numbers = {value: number for number, value in enumerate(foreground, start=1)}
    names = {f"label_{value}": number for value, number in numbers.items()}
    return LabelScheme(
        values={0: 0, **numbers},
        nnunet={"background": 0, **names},
        classes={name: (number,) for name, number in names.items()},
    )


def remapped(mask: np.ndarray, scheme: LabelScheme, *, where: Path | None = None) -> np.ndarray:
    """A mask's values as nnU-Net is given them, (D, H, W) uint8, or uint16 where there are so many.

    Args:
        mask: (D, H, W) of whole numbers.
        scheme: the labels.
        where: its file, for errors.

    Raises:
        DataError: a value that the labels do not know.
    """
    found = np.unique(mask)
    if unknown := [value for value in found.tolist() if value not in scheme.values]:
        known = ", ".join(map(str, sorted(scheme.values)))
        raise DataError(
            f"a mask has the value {unknown[0]:g}, and {known} are known",
            where=where,
            mend="check the segmentation",
        )
    kind = np.uint8 if max(scheme.values.values()) < 256 else np.uint16
    numbers = np.array([scheme.values[int(value)] for value in found], dtype=kind)
    return numbers[np.searchsorted(found, mask)]


def _values(value: int | list[int]) -> Values:
    return tuple(int(v) for v in value) if isinstance(value, list | tuple) else (int(value),)


def _word(name: str) -> str:
    """A class's name as part of a figure's name."""
    return "_".join(name.split())
