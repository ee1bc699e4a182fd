"""DICOM series: told apart by their headers, read through dcm2niix.

Headers decide what is taken: localisers, derived series, reports and short series are left out with the reason before
anything is converted. dcm2niix (Li et al. 2016) knows the vendors' peculiarities; it is called on a series at a time.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mdae.data.catalogue import ScanEntry, safe_name
from mdae.data.dicom_geometry import SliceGrid, check_volume, slice_grid, without_tilt
from mdae.data.external import find_program, last_complaint, run_program
from mdae.data.io import MIN_SLICES, Scan, Series, read_scan
from mdae.data.set_aside import SetAside
from mdae.errors import ScanError
from mdae.extras import install, is_installed
from mdae.progress import Progress

MODALITIES = ("MR", "CT", "PT")
SUFFIXES = (".dcm", ".dicom", ".ima")
SIDECARS = (
    ".json",
    ".tsv",
    ".csv",
    ".bval",
    ".bvec",
    ".txt",
    ".md",
)  # of which trees are full: not worth opening
MAGIC_AT, MAGIC = 128, b"DICM"
BARE = re.compile(
    rb"[\x02\x08]\0[\0-\x20]\0([A-Z]{2}|..\0\0)", re.DOTALL
)  # old files begin with their first tag
TAIL = 512  # bytes at a file's end, which are pixels: where they differ, so do slices
TAGS = (
    *("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "StudyDate", "SeriesNumber", "SeriesDescription"),
    *("Modality", "ImageType", "ContrastBolusAgent", "NumberOfFrames", "InstanceNumber", "SOPInstanceUID"),
    "ImagePositionPatient",
)
LOCALISER = re.compile(r"locali[sz]er|scout|survey|3.?plane", re.IGNORECASE)
# Words that an export gives everybody; ANON0001 is somebody's pseudonym.
NOBODY = re.compile(
    r"((anon(ym(ous|us|i[sz]ed|e|isiert)?)?|de-?identified|unknown|unnamed|none|null|n/?a|nobody|no[-_ ]?(name|id)"
    r"|patient|subject|removed|redacted|deleted|default|test|phantom|id|name)[-_^ ]*)*|[0x\-_. ]+",
    re.IGNORECASE,
)
T1 = r"(?<!pos)t1"  # in "POST1" too the first image after something is meant
# The first that fits names the contrast, in BIDS's words.
CONTRASTS = (
    (re.compile(rf"^(?!.*{T1}).*(flair|dark.?fluid|tirm)", re.IGNORECASE), "FLAIR"),
    (re.compile(r"bold|fmri|resting", re.IGNORECASE), "bold"),
    (re.compile(r"swi|swan|susceptib", re.IGNORECASE), "swi"),
    (re.compile(r"dwi|diff|trace|b1000", re.IGNORECASE), "dwi"),
    (re.compile(r"asl|arterial.?spin", re.IGNORECASE), "asl"),
    (re.compile(rf"t2.?\*|t2.?star|hemo|^(?!.*{T1}).*gre(?![a-z])", re.IGNORECASE), "T2starw"),
    (re.compile(r"(?<!pos)t2", re.IGNORECASE), "T2w"),
    (re.compile(rf"{T1}|mp.?rage|bravo|spgr|tfe|ir-fspgr", re.IGNORECASE), "T1w"),
    (re.compile(r"(^|[^a-z])pd([^a-z]|$)|proton", re.IGNORECASE), "PDw"),
)
AFTER_CONTRAST = re.compile(r"(^|[^a-z])(gd|gad|post|ce|km)([^a-z]|$)|\+ ?c($|[^a-z])|t1c", re.IGNORECASE)
RESAMPLED = re.compile(r"_(Tilt|Eq)(_|$)")  # what dcm2niix makes of a volume beside the volume
UNEVEN = re.compile(r"(missing images\?|slice distance varies)[^\n]*", re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """What the headers of a series' first file say that matters here; "" where nothing."""

    series: str
    study: str
    patient: str
    date: str
    number: str
    description: str
    modality: str
    image_type: tuple[str, ...]
    agent: str


def list_series(
    files: Iterable[Path], source: Path, *, derived: bool, min_slices: int = MIN_SLICES
) -> tuple[list[ScanEntry], list[SetAside]]:
    """The DICOM series among some files, and those that are no volume to learn from.

    Args:
        files: any files; those without a DICOM header are passed over.
        source: the folder they lie below.
        derived: take derived series (reformatted, maps) as well.
        min_slices: leave out series of fewer.
    """
    candidates = [path for path in files if may_be_dicom(path)]
    if not is_installed("pydicom"):
        why = "DICOM, and pydicom is not installed"
        return [], [SetAside(str(path), why, install("pydicom")) for path in candidates]
    if not candidates:
        return [], []
    found: dict[str, list[_Slice]] = defaultdict(list)
    headers: dict[str, Header] = {}
    left_out: list[SetAside] = []
    with Progress("reading DICOM headers", len(candidates), unit="files") as progress:
        for path in candidates:
            progress.advance()
            try:
                header, part = _read_header(path)
            except _NotDicomError as error:
                left_out.append(SetAside(str(path), str(error)))
                continue
            headers.setdefault(header.series, header)
            found[header.series].append(part)
    entries = []
    for uid, header in headers.items():
        parts, copies = _without_copies(sorted(found[uid]))
        left_out += [SetAside(str(path), f"a copy of {kept}") for path, kept in copies]
        slices = tuple(part.path for part in parts)
        if reason := _unfit(header, sum(part.frames for part in parts), derived=derived, least=min_slices):
            where, what = str(slices[0].parent), f"series {_title(header)}: {reason}"
            left_out.append(SetAside(where, what, num_files=str(len(slices))))
        else:
            entries.append(_entry(header, slices, source))
    return entries, left_out


class _Slice(NamedTuple):
    """A file of a series: its place in the order, the file, how many slices it holds, and what tells where they lie."""

    instance: int
    path: Path
    frames: int
    place: str


def _without_copies(parts: list[_Slice]) -> tuple[list[_Slice], list[tuple[Path, Path]]]:
    """The slices of a series, and files that repeat one with the file they repeat.

    What has one place and the same pixels is a copy, under whatever UID it was sent; what has one UID but another
    place or other pixels is a slice.
    """
    alike: dict[str, list[_Slice]] = defaultdict(list)
    for part in parts:
        alike[part.place].append(part)
    copies: dict[Path, Path] = {}
    for group in alike.values():
        tails: dict[bytes, list[_Slice]] = defaultdict(list)
        for part in group if len(group) > 1 else ():
            tails[_tail(part.path)].append(part)
        for same in tails.values():
            first: dict[str, Path] = {}
            for part in same if len(same) > 1 else ():
                kept = first.setdefault(_pixels(part.path), part.path)
                if kept != part.path:
                    copies[part.path] = kept
    return [part for part in parts if part.path not in copies], list(copies.items())


def _tail(path: Path) -> bytes:
    """A file's last bytes."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            return file.read()
    except OSError:
        return b""


def _pixels(path: Path) -> str:
    """A hash of a file's pixels as they are stored; of its name where they cannot be read."""
    import pydicom  # here: only DICOM needs it

    try:
        pixels = pydicom.dcmread(path, specific_tags=["PixelData"], force=True).get("PixelData") or b""
    except Exception:  # pydicom raises nearly anything on damaged files
        pixels = b""
    return hashlib.blake2b(pixels or os.fsencode(path)).hexdigest()


class _NotDicomError(Exception):
    """Why a file is no DICOM image."""


def may_be_dicom(path: Path) -> bool:
    """By how it begins, whatever its name; a name that says DICOM is taken at its word, to be told why it is none."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    if suffix in SIDECARS:
        return False
    try:
        with path.open("rb") as file:
            beginning = file.read(MAGIC_AT + 4)
    except OSError:
        return False
    return beginning[MAGIC_AT:] == MAGIC or (len(beginning) > MAGIC_AT and BARE.match(beginning) is not None)


def _read_header(path: Path) -> tuple[Header, _Slice]:
    """A file's header, and its part of the series."""
    import pydicom  # here: only DICOM needs it

    try:
        tags = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS), force=_bare(path))
        text = {name: str(tags.get(name) or "").strip() for name in TAGS}
        kinds = tags.get("ImageType") or ()
        kinds = (kinds,) if isinstance(kinds, str) else kinds  # pydicom unpacks a single value
        image_type = tuple(str(part).upper() for part in kinds)
        instance, frames = int(text["InstanceNumber"] or 0), int(text["NumberOfFrames"] or 1)
    except Exception as error:  # pydicom raises nearly anything on damaged headers
        said = " ".join(str(error).split()).partition(". Use")[0]
        raise _NotDicomError(f"no DICOM header that can be read: {said or 'damaged'}") from error
    if not text["SeriesInstanceUID"]:
        raise _NotDicomError("a DICOM file of no series")
    header = Header(
        series=text["SeriesInstanceUID"],
        study=text["StudyInstanceUID"],
        patient=text["PatientID"],
        date=text["StudyDate"],
        number=text["SeriesNumber"],
        description=text["SeriesDescription"],
        modality=text["Modality"],
        image_type=image_type,
        agent=text["ContrastBolusAgent"],
    )
    place = text["ImagePositionPatient"] or text["SOPInstanceUID"] or str(path)
    return header, _Slice(instance, path, frames, place)


def _bare(path: Path) -> bool:
    """Whether a file begins with its first tag instead of 128 bytes and four letters, as old ones do."""
    with path.open("rb") as file:
        beginning = file.read(MAGIC_AT + 4)
    return beginning[MAGIC_AT:] != MAGIC and BARE.match(beginning) is not None


def _unfit(header: Header, slices: int, *, derived: bool, least: int) -> str | None:
    """Why a series is left out, if it is."""
    if header.modality not in MODALITIES:
        return f"modality {header.modality or 'unknown'} is no volume"
    if LOCALISER.search("/".join((*header.image_type, header.description))):
        return "a localiser"
    if not derived and {"DERIVED", "SECONDARY"} & set(header.image_type[:2]):
        return f"derived from other images ({'/'.join(header.image_type)}); take it with --derived"
    if slices < least:
        return f"only {slices} slices"
    return None


def _title(header: Header) -> str:
    return " ".join(part for part in (header.number, header.description) if part) or header.series


def _entry(header: Header, slices: tuple[Path, ...], source: Path) -> ScanEntry:
    """Without a patient's ID, or with one that an export gives all, the study is the subject: two never become one.

    A series may be repeated with the same number and description, hence its name ends in a hash of its UID.
    """
    nobody = NOBODY.fullmatch(header.patient)
    subject = f"study-{header.study or header.series}" if nobody else header.patient
    name = safe_name("__".join([subject, header.date, "-".join(_title(header).split())]))
    return ScanEntry(
        scan_id=f"{name}-{hashlib.blake2b(header.series.encode(), digest_size=3).hexdigest()}",
        subject=subject,
        session=header.date,
        contrast=guess_contrast(header.description, agent=header.agent),
        path=slices[0],
        slices=slices,
    )


def guess_contrast(description: str, *, agent: str = "") -> str:
    """A contrast in BIDS's words from a series' description, `-gd` after a contrast agent; else the description.

    Args:
        description: what the scanner's user called the series.
        agent: of the header's ContrastBolusAgent, "" if none was given.
    """
    known = (name for pattern, name in CONTRASTS if pattern.search(description))
    contrast = next(known, "-".join(description.split()))
    with_agent = contrast == "T1w" and (agent or AFTER_CONTRAST.search(description))
    return f"{contrast}-gd" if with_agent else contrast


def read_series(entry: ScanEntry, *, series: Series = "set_aside", min_slices: int = MIN_SLICES) -> Scan:
    """Convert a DICOM series and read it as `read_scan` does.

    Args:
        entry: with its slices.
        series: what to do where one series holds several volumes (echoes, phases): refuse it, or take the first.
        min_slices: as in `read_scan`.

    Raises:
        ScanError: dcm2niix cannot convert it, slices are missing, or it is unfit as a scan.
        DataError: dcm2niix is not installed.
    """
    grid, modality = slice_grid(entry.slices, entry.path), _read_header(entry.path)[0].modality
    with tempfile.TemporaryDirectory(prefix="mdae-dicom-") as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for number, path in enumerate(entry.slices):
            _lay_out(path, folder / "in" / f"{number:06d}.dcm")
        volumes = _convert(folder, entry.path, known=grid is not None)
        if len(volumes) > 1 and series == "set_aside":
            names = ", ".join(path.stem for path in volumes)
            raise ScanError(
                f"one series of {len(volumes)} volumes ({names})",
                where=entry.path,
                mend="take the first with --series first",
            )
        try:
            scan = replace(read_scan(volumes[0], series=series, min_slices=min_slices), notes=())
            if grid is not None and grid.tilted:
                scan = _without_tilt(scan, grid, entry.path)
            elif grid is not None:
                check_volume(grid, scan.affine, scan.data.shape, entry.path)
            return replace(scan, path=entry.path, modality=modality)
        except ScanError as error:
            raise ScanError(error.what, where=entry.path, mend=error.mend) from error


def _lay_out(path: Path, place: Path) -> None:
    """A slice where dcm2niix looks for it; one without DICOM's beginning gets it, since dcm2niix knows no other."""
    if not _bare(path):
        place.symlink_to(path.absolute())
        return
    import pydicom  # here: only DICOM needs it

    slice_ = pydicom.dcmread(path, force=True)
    if "TransferSyntaxUID" not in slice_.file_meta:
        slice_.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    slice_.file_meta.MediaStorageSOPClassUID = slice_.SOPClassUID
    slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
    slice_.save_as(place, enforce_file_format=True)


def _without_tilt(scan: Scan, grid: SliceGrid, where: Path) -> Scan:
    """A straight stack of slices with the gantry's tilt taken out."""
    data, affine = without_tilt(grid, scan.data, scan.affine, where)
    note = f"a tilted gantry, each slice put where it lies: {grid.tilt_deg:.1f} degrees"
    return replace(scan, data=data, affine=affine, notes=(note,))


def _convert(folder: Path, where: Path, *, known: bool) -> list[Path]:
    """The volumes that dcm2niix makes of a folder of slices, as they are: neither upright nor evened out.

    Where the headers are `known` to have even slices, its word on that does not count: it takes a tilt for gaps.
    """
    program = find_program(
        "dcm2niix",
        purpose="DICOM series are read by it",
        mend=f"{install('dcm2niix')}, or from your system's packages",
    )
    _, said = run_program([program, "-b", "n", "-z", "n", "-f", "volume", "-o", folder, folder / "in"])
    volumes = [path for path in sorted(folder.glob("*.nii")) if not RESAMPLED.search(path.stem)]
    if not volumes:
        reason = f"dcm2niix makes nothing of it ({last_complaint(said)})"
        raise ScanError(reason, where=where, mend="export the series again")
    if uneven := not known and UNEVEN.search(said):
        raise ScanError(
            f"slices are missing or uneven ({uneven[0].strip()})", where=where, mend="export the series again"
        )
    return volumes
