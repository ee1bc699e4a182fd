"""A task's scans and masks as a raw data set of nnU-Net: scans where they lie, masks with consecutive labels."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mdae.data.catalogue import ScanEntry, safe_name
from mdae.data.dicom import read_series
from mdae.data.io import Scan, read_scan, write_nifti
from mdae.data.label_file import read_label_map, same_grid
from mdae.data.preprocess import content_hash
from mdae.data.workers import num_cores
from mdae.errors import ScanError
from mdae.evaluation.cohort import Cohort, ready_cohort
from mdae.evaluation.nnunet.labels import (
    BY_LAYOUT,
    LabelScheme,
    described_labels,
    found_labels,
    remapped,
)
from mdae.files import write_json
from mdae.interop.nnunet import READER
from mdae.progress import Progress
from mdae.tasks.layouts import Case
from mdae.tasks.nnunet_raw import DESCRIPTION, LAYOUT, read_description
from mdae.tasks.record import Task

ENDING = ".nii.gz"
NUMBERED = re.compile(r"Dataset\d{3}_.")  # as nnU-Net wants data sets to be named


@dataclass(frozen=True)
class RawCase:
    """One subject of a raw data set.

    Attributes:
        subject: its name.
        images: a file a channel.
        label: its mask, with nnU-Net's labels.
        contents: hashes of its scans' voxels.
    """

    subject: str
    images: list[Path]
    label: Path
    contents: list[str]


@dataclass(frozen=True)
class RawDataset:
    """A raw data set of nnU-Net's.

    Attributes:
        name: DatasetNNN_Name.
        folder: where its dataset.json lies.
        cases: by nnU-Net's identifier, sorted.
        scheme: the labels.
        excluded: number of subjects by reason.
    """

    name: str
    folder: Path
    cases: dict[str, RawCase]
    scheme: LabelScheme
    excluded: dict[str, int]

    @property
    def description(self) -> dict[str, Any]:
        """What nnU-Net is told of it."""
        return dict(json.loads((self.folder / DESCRIPTION).read_text()))


def dataset_key(cohort: Cohort, contrasts: Sequence[str]) -> str:
    """The same for the same files of the same subjects; what nnU-Net makes of them is kept under it."""
    files = [
        (
            case.subject,
            [[str(case.scans[name].path.absolute()), *case.scans[name].stamp()] for name in contrasts],
            _stamp(case.mask),
        )
        for case in cohort.cases
    ]
    return hashlib.sha256(json.dumps([list(contrasts), files]).encode()).hexdigest()[:10]


def _stamp(path: Path | None) -> list[str | int]:
    assert path is not None  # a segmentation task's cohort has masks
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]


def raw_dataset(
    task: Task, data: Path, cohort: Cohort, contrasts: Sequence[str], folder: Path, workers: int
) -> RawDataset:
    """Write a raw data set, or read the one that an earlier start has written.

    Scans that are NIfTI files already are named where they lie, others are converted. A subject is left out, with the
    reason, where a scan is unfit or its grid is not the mask's, and where its scan is another subject's too.

    Args:
        task: its layout tells what the mask's values mean.
        data: the folder of the download.
        cohort: subjects with every contrast and a mask.
        contrasts: the channels, in order.
        folder: nnUNet_raw.
        workers: threads that read; 0 for one a core.

    Raises:
        DataError: nobody is left, or a mask has a value that the labels do not know.
    """
    name = safe_name(task.name)
    root = folder / (name if NUMBERED.match(name) else f"Dataset001_{name}")
    about = _written(root) or _write(task, data, cohort, contrasts, root, workers)
    ours = about["mdae"]
    cases = {
        case_id: RawCase(
            ours["subjects"][case_id],
            [Path(path) for path in files["images"]],
            Path(files["label"]),
            ours["contents"][case_id],
        )
        for case_id, files in sorted(about["dataset"].items())
    }
    return RawDataset(root.name, root, cases, label_scheme(task, data, set(ours["values"])), ours["left_out"])


def _written(root: Path) -> dict[str, Any] | None:
    path = root / DESCRIPTION
    return dict(json.loads(path.read_text())) if path.is_file() else None


def label_scheme(task: Task, data: Path, values: set[int]) -> LabelScheme:
    """What a task's masks mean, of which these values occur."""
    if task.layout in BY_LAYOUT:
        return BY_LAYOUT[task.layout]
    return described_labels(read_description(data)) if task.layout == LAYOUT else found_labels(values)


@dataclass(frozen=True)
class _Seen:
    """A case whose files were all read."""

    images: list[Path]
    contents: list[str]
    values: set[int]


def _write(
    task: Task, data: Path, cohort: Cohort, contrasts: Sequence[str], root: Path, workers: int
) -> dict[str, Any]:
    """Read every file once, write masks and description."""
    seen = _look_at(cohort, contrasts, root, workers)
    cohort, fit = ready_cohort(cohort, seen, lambda case: case.contents, data)
    values = {value for case in fit for value in case.values}
    scheme = label_scheme(task, data, values)
    ids = [safe_name(case.subject) for case in cohort.cases]
    for case_id, case in zip(ids, cohort.cases, strict=True):
        mask, affine = read_labels(case)
        mask = remapped(mask, scheme, where=case.mask)
        write_nifti(root / "labelsTr" / f"{case_id}{ENDING}", mask, affine)
    about = {
        "channel_names": {str(number): name for number, name in enumerate(contrasts)},
        **scheme.to_dict(),
        "numTraining": len(ids),
        "file_ending": ENDING,
        "overwrite_image_reader_writer": READER,
        "dataset": {
            case_id: {
                "images": [str(path.absolute()) for path in case.images],
                "label": str((root / "labelsTr" / f"{case_id}{ENDING}").absolute()),
            }
            for case_id, case in zip(ids, fit, strict=True)
        },
        "mdae": {
            "subjects": {case_id: case.subject for case_id, case in zip(ids, cohort.cases, strict=True)},
            "contents": {case_id: case.contents for case_id, case in zip(ids, fit, strict=True)},
            "values": sorted(values),
            "left_out": cohort.excluded,
        },
    }
    write_json(root / DESCRIPTION, about)  # last: a folder with it is whole
    return about


def _look_at(cohort: Cohort, contrasts: Sequence[str], root: Path, workers: int) -> list[_Seen | str]:
    """What was seen of each case, or why it is unfit."""

    def look(case: Case) -> _Seen | str:
        try:
            return _seen(case, contrasts, root)
        except ScanError as error:
            return error.what

    found = []
    with (
        ThreadPoolExecutor(workers or num_cores()) as pool,
        Progress("reading", len(cohort.cases), unit="subjects") as progress,
    ):
        for result in pool.map(look, cohort.cases):
            found.append(result)
            progress.advance()
    return found


def _seen(case: Case, contrasts: Sequence[str], root: Path) -> _Seen:
    """Read a case; raises `ScanError` for anything that nnU-Net could not use."""
    mask, affine = read_labels(case)
    images, contents = [], []
    for number, name in enumerate(contrasts):
        entry = case.scans[name]
        scan = read_series(entry) if entry.slices else read_scan(entry.path)
        require_same_grid(entry, scan.data.shape, scan.affine, mask, affine)
        contents.append(content_hash(scan.data))
        images.append(
            _as_nifti(entry, scan, root / "imagesTr" / f"{safe_name(case.subject)}_{number:04d}{ENDING}")
        )
    return _Seen(images, contents, {int(value) for value in np.unique(mask)})


def require_same_grid(
    entry: ScanEntry, shape: Sequence[int], affine: np.ndarray, mask: np.ndarray, mask_affine: np.ndarray
) -> None:
    """Raises `ScanError` for a scan that does not lie on its mask's grid."""
    if not same_grid(shape, affine, mask, mask_affine):
        raise ScanError(
            f"{entry.contrast} on another grid than the mask",
            where=entry.path,
            mend="resample one to the other",
        )


def _as_nifti(entry: ScanEntry, scan: Scan, converted: Path) -> Path:
    """The scan's own file if nnU-Net can read it, else a conversion."""
    if not entry.slices and entry.path.name.endswith((".nii", ".nii.gz")) and _is_3d(entry.path):
        return entry.path
    write_nifti(converted, scan.data, scan.affine)
    return converted


def _is_3d(path: Path) -> bool:
    return len(nib.load(path).shape) == 3  # type: ignore[attr-defined]


def read_labels(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """A case's mask, (D, H, W) of whole numbers, and its affine.

    Raises:
        ScanError: not a mask.
    """
    assert case.mask is not None
    return read_label_map(case.mask)
