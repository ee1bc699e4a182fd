"""Brain masks by the skull strippers that people have installed: HD-BET (Isensee 2019) and SynthStrip (Hoopes 2022).

Each is called on one scan at a time and loads its network anew; with a GPU a few `--workers` are enough.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
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
        ScanError: it fails, which is not held against the scan, or finds no brain.
    """
    with tempfile.TemporaryDirectory(prefix="mdae-strip-") as name:
        folder = Path(name)
        write_nifti(folder / "scan.nii.gz", scan.data, scan.affine)
        command, made = _hd_bet(folder) if tool == "hd-bet" else _synthstrip(folder)
        status, said = run_program(command)
        if status or not made.is_file():  # the tool's fault or the scan's: nobody knows, so it is tried again
            raise ScanError(
                f"makes no brain mask of it (exit status {status}: {last_complaint(said)})",
                where=tool,
                mend="try the tool on the scan by itself",
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


@cache
def _has_gpu() -> bool:
    """Whether there is a GPU, and not its driver's tools alone, as on a cluster's login node."""
    program = shutil.which("nvidia-smi")
    return program is not None and run_program([program, "-L"])[1].startswith("GPU")
