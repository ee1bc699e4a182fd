"""The two files of a fitted model: `fitted.json`, what it is, and `fitted.safetensors`, its arrays. Neither is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from mdae.errors import ModelError
from mdae.files import atomic_write, write_json
from mdae.version import __version__

RECORD, TENSORS = "fitted.json", "fitted.safetensors"
FORMAT = 1
MEND = "give a folder that mdae fit wrote"


def write_fitted(folder: Path, about: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Write the folder; arrays first, so that one with a record is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / TENSORS) as temporary:
        safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, temporary)
    write_json(folder / RECORD, {"format": FORMAT, "mdae": __version__, **about})


def read_record(folder: Path) -> dict[str, Any]:
    """What `fitted.json` says; raises `ModelError`."""
    path = folder / RECORD
    if not path.is_file():
        raise ModelError(f"no {RECORD} there", where=folder, mend=MEND)
    try:
        about = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"not readable as JSON ({error})", where=path, mend=MEND) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ModelError(f"not the record of a fitted model of format {FORMAT}", where=path, mend=MEND)
    return about


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """The arrays by name; raises `ModelError`."""
    try:
        return dict(safetensors.numpy.load_file(folder / TENSORS))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ModelError(
            f"damaged or missing arrays ({error})", where=folder / TENSORS, mend="copy the folder again"
        ) from error


def misfit(folder: Path, error: Exception) -> ModelError:
    """The error for a record and arrays that do not fit each other or this version."""
    reason = f"{type(error).__name__}: {error}"
    return ModelError(
        f"its record and arrays do not describe a fitted model of this version ({reason})",
        where=folder,
        mend=MEND,
    )
