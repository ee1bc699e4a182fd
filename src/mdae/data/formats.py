"""Which files are scans by their names, which are parts of one, and which are of formats that are not read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mdae.data.set_aside import SetAside

SUFFIXES = (".nii.gz", ".nii", ".nii.bz2", ".hdr", ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd")
# What lies beside a header and holds its voxels.
VOXELS = (".img", ".img.gz", ".raw", ".raw.gz", ".zraw", ".bin")
HEADERS = (".hdr", ".nhdr", ".mhd")
NOT_READ = {
    ".mnc": "MINC: convert it with mnc2nii",
    ".head": "AFNI: convert it with 3dAFNItoNIFTI",
    ".brik": "AFNI: convert it with 3dAFNItoNIFTI",
    ".brik.gz": "AFNI: convert it with 3dAFNItoNIFTI",
    ".par": "Philips PAR/REC: convert it with dcm2niix",
    ".rec": "Philips PAR/REC: convert it with dcm2niix",
    ".nii.xz": "compress it with gzip instead",
    ".nii.zst": "compress it with gzip instead",
    ".nii.zip": "unpack it",
    ".hdr.gz": "unpack it",
    ".gipl": "convert it to NIfTI",
    ".gipl.gz": "convert it to NIfTI",
    ".mif": "MRtrix: convert it with mrconvert",
    ".mif.gz": "MRtrix: convert it with mrconvert",
    ".vtk": "convert it to NIfTI",
    ".vti": "convert it to NIfTI",
    ".tif": "convert it to NIfTI with its spacing and orientation",
    ".tiff": "convert it to NIfTI with its spacing and orientation",
    ".npy": "convert it to NIfTI with its spacing and orientation",
    ".npz": "convert it to NIfTI with its spacing and orientation",
    ".mat": "convert it to NIfTI with its spacing and orientation",
    ".h5": "convert it to NIfTI with its spacing and orientation",
    ".hdf5": "convert it to NIfTI with its spacing and orientation",
    ".dcm.gz": "unpack it",
    ".zip": "unpack it",
    ".tar": "unpack it",
    ".tar.gz": "unpack it",
    ".tar.bz2": "unpack it",
    ".tgz": "unpack it",
    ".rar": "unpack it",
    ".7z": "unpack it",
}


def is_scan_name(name: str) -> bool:
    """Whether a file's name is that of a volume in a format that is read."""
    return name.lower().endswith(SUFFIXES)


def is_scan(path: Path) -> bool:
    """Whether a file is a volume in a format that is read, by its name; hidden ones are not."""
    return is_scan_name(path.name) and not path.name.startswith(".")


def scan_stem(path: Path) -> str:
    """A scan's file name without its suffixes."""
    lower = path.name.lower()
    suffix = next((suffix for suffix in SUFFIXES if lower.endswith(suffix)), "")
    return path.name[: len(path.name) - len(suffix)]


def not_read(path: Path) -> SetAside | None:
    """Why a file of a format of volumes, or an archive of files, is not read; None for any other file."""
    lower = path.name.lower()
    suffix = max((suffix for suffix in NOT_READ if lower.endswith(suffix)), key=len, default="")
    if not suffix:
        return None
    return SetAside(str(path), f"a format that is not read ({suffix})", NOT_READ[suffix])


def voxels_of(headers: Iterable[Path], others: Iterable[Path]) -> dict[Path, Path]:
    """The files that hold the voxels of a header beside them, and whose they are.

    By the name that they share, or by the one that the header states.
    """
    beside: dict[Path, Path] = {}
    for header in headers:
        if header.suffix.lower() in HEADERS:
            stem = scan_stem(header)
            beside |= {header.with_name(name): header for name in _stated(header)}
            beside |= {header.with_name(stem + suffix): header for suffix in VOXELS}
    return {path: beside[path] for path in others if path in beside}


def _stated(header: Path) -> list[str]:
    """The file names of voxels in a header of NRRD or MetaImage."""
    try:
        text = header.read_bytes()[:10_000].decode("latin-1")
    except OSError:
        return []
    pattern = r"^\s*(?:data ?file\s*:|ElementDataFile\s*=)\s*(?:\./)?([^\r\n]+?)\s*$"
    return re.findall(pattern, text, re.IGNORECASE | re.MULTILINE)
