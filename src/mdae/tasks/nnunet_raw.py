"""Raw data sets in nnU-Net's layout: a folder DatasetNNN_Name with dataset.json, imagesTr and labelsTr."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from mdae.data.catalogue import ScanEntry, safe_name
from mdae.errors import DataError
from mdae.tasks.case import Case
from mdae.tasks.record import Task

DESCRIPTION = "dataset.json"
LAYOUT = "nnunet"


def is_nnunet_raw(folder: Path) -> bool:
    """Whether a folder describes itself as nnU-Net's do."""
    return (folder / DESCRIPTION).is_file()


def read_description(folder: Path) -> dict[str, Any]:
    """What dataset.json says; the channels, by number as text, stand under `channel_names`.

    Raises:
        DataError: no such file, or one that lacks what nnU-Net needs.
    """
    path = folder / DESCRIPTION
    try:
        about = json.loads(path.read_text())
        channels = about.get("channel_names") or about["modality"]  # its name in older data sets
        about = {**about, "channel_names": {str(int(number)): str(name) for number, name in channels.items()}}
        assert about["file_ending"] and about["labels"]["background"] == 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise DataError(
            f"not nnU-Net's description of a raw data set ({type(error).__name__}: {error})",
            where=path,
            mend="see nnU-Net's documentation, dataset_format.md",
        ) from error
    return about


def channel_names(about: dict[str, Any]) -> list[str]:
    """The channels in their order, each with a name of its own."""
    names = about["channel_names"]
    ordered = [names[number] for number in sorted(names, key=int)]
    twice = len(set(ordered)) < len(ordered)
    return [f"{name}_{index:04d}" for index, name in enumerate(ordered)] if twice else ordered


def nnunet_task(folder: Path) -> Task:
    """The segmentation of a raw data set as a task."""
    about = read_description(folder)
    return Task(
        name=safe_name(folder.resolve().name),
        title=str(about.get("description") or "segmentation"),
        layout=LAYOUT,
        kind="segmentation",
        contrasts=tuple(channel_names(about)),
        cohort="all training cases with an image of every channel",
        split="5-fold cross-validation by case; the fold after the tested one validates",
        access=str(about.get("reference") or ""),
        licence=str(about.get("licence") or about.get("license") or ""),
    )


def nnunet_raw(root: Path) -> list[Case]:
    """The training cases; each counts as a subject of its own."""
    about = read_description(root)
    names = channel_names(about)
    cases = []
    for case_id, (images, label) in _training_cases(root, about, len(names)).items():
        scans = {
            name: ScanEntry(safe_name(f"{case_id}__{name}"), case_id, "", name, path)
            for name, path in zip(names, images, strict=True)
            if path.is_file()
        }
        cases.append(Case(case_id, scans, mask=label if label.is_file() else None))
    return cases


def _training_cases(root: Path, about: dict[str, Any], num: int) -> dict[str, tuple[list[Path], Path]]:
    """The images and the segmentation of each case, as listed under `dataset` or as found in the two folders."""
    ending = str(about["file_ending"])
    if listed := about.get("dataset"):
        try:
            cases = {
                case_id: ([_listed(root, path) for path in files["images"]], _listed(root, files["label"]))
                for case_id, files in listed.items()
            }
            assert all(len(images) == num for images, _ in cases.values()), f"{num} images a case are wanted"
        except (KeyError, TypeError, AttributeError, AssertionError) as error:
            raise DataError(
                f"its `dataset` does not list the images and the label of each case ({error})",
                where=root / DESCRIPTION,
                mend="see nnU-Net's documentation, dataset_format.md",
            ) from error
        return cases
    pattern = re.compile(r"(.+)_0000" + re.escape(ending))
    found = sorted(
        m[1] for path in (root / "imagesTr").glob(f"*{ending}") if (m := pattern.fullmatch(path.name))
    )
    return {
        case_id: (
            [root / "imagesTr" / f"{case_id}_{number:04d}{ending}" for number in range(num)],
            root / "labelsTr" / f"{case_id}{ending}",
        )
        for case_id in found
    }


def _listed(root: Path, path: str) -> Path:
    return root / os.path.expandvars(path)
