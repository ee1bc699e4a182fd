"""Brain masks by the skull strippers that people have installed: HD-BET (Isensee 2019) and SynthStrip (Hoopes 2022).

Each is called on one scan at a time and loads its network anew; with a GPU a few `--workers` are enough.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

from mdae.data.external import find_program, last_complaint, run_program
from mdae.data.io import Scan, read_mask, write_nifti
from mdae.data.preprocess import Strip
from mdae.errors import ScanError


def brain_mask(scan: Scan, tool: Strip) -> np.ndarray:
    """The brain, (D, H, W) bool on the scan's voxels.

    Raises:
        DataError: the tool is not installed.
        ScanError: it makes no mask of this scan, or an empty one.
    """
    with tempfile.TemporaryDirectory(prefix="mdae-strip-") as name:
        folder = Path(name)
        write_nifti(folder / "scan.nii.gz", scan.data, scan.affine)
        command, made = _hd_bet(folder) if tool == "hd-bet" else _synthstrip(folder)
        said = run_program(command)
        if not made.is_file():
            raise ScanError(
                f"{tool} makes no brain mask of it ({last_complaint(said)})",
                where=scan.path,
                mend="look at the file",
            )
        mask = read_mask(made, scan)
    if not mask.any():
        raise ScanError(f"{tool} finds no brain in it", where=scan.path, mend="look at the file")
    return mask


def _hd_bet(folder: Path) -> tuple[list[str | Path], Path]:
    """The call of HD-BET 2 and the mask that it writes."""
    program = find_program("hd-bet", purpose="--strip hd-bet calls it", mend="pip install hd-bet")
    device = ["-device", "cuda"] if _has_gpu() else ["-device", "cpu", "--disable_tta"]
    files = ["-i", str(folder / "scan.nii.gz"), "-o", str(folder / "brain.nii.gz")]
    options = [*files, "--save_bet_mask", "--no_bet_image"]
    return [program, *options, *device], folder / "brain_bet.nii.gz"


def _synthstrip(folder: Path) -> tuple[list[str | Path], Path]:
    """The call of FreeSurfer's SynthStrip and the mask that it writes."""
    program = find_program(
        "mri_synthstrip", purpose="--strip synthstrip calls it", mend="install FreeSurfer 7.3 or newer"
    )
    options = ["-i", str(folder / "scan.nii.gz"), "-m", str(folder / "mask.nii.gz")]
    return [program, *options, *(["--gpu"] if _has_gpu() else [])], folder / "mask.nii.gz"


def _has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None
