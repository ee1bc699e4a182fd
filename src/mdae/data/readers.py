"""From a file's name to an image whose voxels are not yet read, by its format; every failure names its true reason."""

from __future__ import annotations

import bz2
import gzip
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from isal.isal_zlib import IsalError
from nibabel.affines import from_matvec

from mdae.data.nifti import EXPORT, read_nifti
from mdae.data.nrrd_files import read_nrrd
from mdae.errors import ScanError
from mdae.extras import require

KINDS = {
    ".nrrd": "NRRD",
    ".nhdr": "NRRD",
    ".mgh": "MGH",
    ".mgz": "MGH",
    ".mha": "MetaImage",
    ".mhd": "MetaImage",
}
POINTERS = {b"/annex/objects/": "git annex get", b"version https://git-lfs": "git lfs pull"}
LINK_INTO_ANNEX = ".git/annex/objects"


class Image(NamedTuple):
    """What a file holds.

    Attributes:
        voxels: an array, or what becomes one when it is asked for; more than one volume lie along the last axes.
        affine: (4, 4), from voxel indices to RAS millimetres.
        notes: what should be told of how it was read.
    """

    voxels: Any
    affine: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(side) for side in self.voxels.shape)

    @property
    def dtype(self) -> np.dtype:
        dtype: np.dtype = self.voxels.dtype
        return dtype


def open_image(path: Path) -> Image:
    """A file's image by its suffix; raises `ScanError` for one that cannot be read."""
    suffix = path.suffix.lower()
    if suffix in (".mha", ".mhd"):
        return _by_itk(path)
    raw = read_bytes(path)
    if not raw:
        raise ScanError("an empty file", where=path, mend=EXPORT)
    _refuse_pointers(raw, path)
    kind = KINDS.get(suffix, "NIfTI")
    try:
        if kind == "NRRD":
            return Image(*read_nrrd(raw, path))
        if kind == "MGH":
            image = nib.MGHImage.from_bytes(raw)
            known = bool(image.header["goodRASFlag"])
            notes = () if known else ("a MGH header without an orientation: coronal slices taken",)
            return Image(image.dataobj, np.asarray(image.affine), notes)
        voxels, geometry = read_nifti(raw, path, _voxels_beside(path))
        return Image(voxels, geometry.affine, geometry.notes)
    except ScanError:
        raise
    except Exception as error:  # the readers raise nearly anything on damaged headers
        reason = f"no {kind} header that can be read: {why(error)}"
        raise ScanError(reason, where=path, mend=EXPORT) from error


def why(error: BaseException) -> str:
    """What an exception says, in one line; never its class alone."""
    said = " ".join(str(error).split())
    if isinstance(error, KeyError):
        return f"no field {said}"
    return said or "damaged"


def read_bytes(path: Path) -> bytes:
    """The uncompressed bytes, whatever the name says; igzip is about twice as fast as zlib.

    Raises:
        ScanError: a file that cannot be read or is damaged.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        if raw[:2] == b"\x1f\x8b":
            return _gunzip(raw)
        return bz2.decompress(raw) if raw[:3] == b"BZh" else raw
    except (EOFError, IsalError, zlib.error, gzip.BadGzipFile, struct.error, OSError, ValueError) as error:  # type: ignore[misc]
        kind = "gzip" if raw[:2] == b"\x1f\x8b" else "bzip2"
        raise ScanError(f"truncated or damaged {kind} ({why(error)})", where=path, mend=EXPORT) from error


def _gunzip(raw: bytes) -> bytes:
    """All members of a gzip; what follows them and is none is passed over, as gzip does."""
    try:
        return igzip.decompress(raw)  # type: ignore[no-any-return]
    except (gzip.BadGzipFile, EOFError):
        parts = []
        while raw[:2] == b"\x1f\x8b":
            member = isal_zlib.decompressobj(wbits=31)
            parts.append(member.decompress(raw))
            if not member.eof:
                raise
            raw = member.unused_data
        return b"".join(parts)


def _unreadable(path: Path, error: OSError) -> ScanError:
    """Why a file cannot be opened, broken links of data managers by name."""
    if path.is_symlink() and not path.exists():
        target = str(path.readlink())
        if LINK_INTO_ANNEX in target.replace("\\", "/"):
            mend = f"datalad get {path.name}, or git annex get {path.name}"
            return ScanError("a link into a git annex whose content is not here", where=path, mend=mend)
        return ScanError(
            f"a broken link to {target}", where=path, mend="mend the link, or fetch what it names"
        )
    return ScanError(
        f"cannot be read ({error.strerror or error})",
        where=path,
        mend="check that it is there and yours to read",
    )


def _refuse_pointers(raw: bytes, path: Path) -> None:
    """Data managers leave a line of text where a file's content was not fetched."""
    for beginning, mend in POINTERS.items():
        if raw.startswith(beginning):
            tool = mend.rpartition(" ")[0].replace(" annex", "-annex").replace(" lfs", "-lfs")
            more = f"datalad get {path.name}, or " if "annex" in mend else ""
            raise ScanError(
                f"a pointer of {tool.split()[0]} and not the scan, whose content is not here",
                where=path,
                mend=f"{more}{mend} {path.name}",
            )


def _voxels_beside(path: Path) -> bytes | None:
    """The second file of a NIfTI pair; None for a file that holds all."""
    name = path.name
    if not name.lower().endswith(".hdr"):
        return None
    for suffix in (".img", ".img.gz", ".IMG"):
        if (voxels := path.with_name(name[:-4] + suffix)).exists():
            return read_bytes(voxels)
    raise ScanError("a header without its voxels", where=path, mend=f"put {name[:-4]}.img beside it")


def _by_itk(path: Path) -> Image:
    """A format that ITK alone reads, MetaImage; its voxels are read at once."""
    require("SimpleITK", f"reads {path.suffix}", ScanError, where="SimpleITK")
    import SimpleITK as sitk  # here: an extra

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    if not path.is_file():
        raise _unreadable(path, FileNotFoundError(2, "No such file or directory"))
    try:
        image = sitk.ReadImage(str(path))
        data = np.asarray(sitk.GetArrayFromImage(image))
    except RuntimeError as error:
        reason = why(error).rpartition("ERROR: ")[2] or why(error)
        raise ScanError(f"no MetaImage that can be read: {reason}", where=path, mend=EXPORT) from error
    if image.GetNumberOfComponentsPerPixel() > 1 or data.dtype.kind == "c":
        raise ScanError("voxels are colours or vectors", where=path, mend="export one intensity a voxel")
    size = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(size, size)[:3, :3]
    matrix = np.diag([-1.0, -1.0, 1.0][: len(direction)]) @ direction * np.array(image.GetSpacing())[:3]
    if size < 3:
        raise ScanError(f"a 2D image of shape {data.T.shape}", where=path, mend="give a 3D volume")
    affine = from_matvec(matrix, np.array(image.GetOrigin())[:3] * [-1.0, -1.0, 1.0])
    return Image(data.T.astype(np.float32, copy=False), affine)
