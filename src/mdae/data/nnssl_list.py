"""nnssl's lists of images: raw ones, and those of what it has preprocessed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mdae.data.catalogue import ScanEntry, safe_name
from mdae.data.formats import scan_stem
from mdae.errors import DataError

RAW_LIST = "pretrain_data.json"
PREPARED_LIST = "pretrain_data__onemmiso.json"


def nnssl_images(path: Path) -> Iterator[ScanEntry]:
    """The images of nnssl's `pretrain_data.json`: collection, data sets, subjects, sessions, images."""
    try:
        collection = json.loads(path.read_text())
        datasets = collection["datasets"]
        for dataset in datasets.values():
            for subject_id, subject in dataset["subjects"].items():
                for session_id, session in subject["sessions"].items():
                    for image in session["images"]:
                        yield _nnssl_image(path, str(dataset["dataset_index"]), subject_id, session_id, image)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"not nnssl's list of images ({type(error).__name__}: {error})",
            where=path,
            mend=f"give the {RAW_LIST} that nnssl wrote",
        ) from error


def _nnssl_image(path: Path, dataset: str, subject: str, session: str, image: dict[str, Any]) -> ScanEntry:
    masks = image.get("associated_masks") or {}
    resolve: Callable[[str | None], Path | None] = lambda name: _with_variable(name, path) if name else None  # noqa: E731
    file = _with_variable(image["image_path"], path)
    return ScanEntry(
        scan_id=safe_name("__".join([dataset, subject, session, scan_stem(Path(image["name"]))])),
        subject=f"{dataset}/{subject.removeprefix('sub-')}",
        session=session.removeprefix("ses-"),
        contrast=str(image.get("modality") or ""),
        path=file,
        anatomy_mask=resolve(masks.get("anatomy_mask")),
        anonymisation_mask=resolve(masks.get("anonymization_mask")),
    )


def _with_variable(name: str, where: Path) -> Path:
    """A path whose first part may be an environment variable, `$nnssl_raw` say."""
    if not name.startswith("$"):
        return where.parent / name
    variable, _, rest = name[1:].partition("/")
    if variable == "nnssl_preprocessed" and where.name == PREPARED_LIST:
        return where.resolve().parents[1] / rest  # the list lies in a data set's folder below it
    if variable not in os.environ:
        raise DataError(
            f"its paths begin with ${variable}, which is not set",
            where=where,
            mend=f"export {variable}=FOLDER",
        )
    return Path(os.environ[variable]) / rest
