"""DICOM series: told apart by their headers, read through dcm2niix.

Headers decide what is taken: localisers, derived series, reports and short series are left out with the reason before
anything is converted. dcm2niix (Li et al. 2016) knows the vendors' peculiarities; it is called on a series at a time.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mdae.data.catalogue import ScanEntry, safe_name
from mdae.data.external import find_program, last_complaint, run_program
from mdae.data.io import MIN_SLICES, Scan, Series, read_scan
from mdae.data.set_aside import SetAside
from mdae.errors import ScanError
from mdae.progress import Progress

MODALITIES = ("MR", "CT", "PT")
SUFFIXES = ("", ".dcm", ".dicom", ".ima")
MAGIC_AT, MAGIC = 128, b"DICM"
TAGS = (
    *("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "StudyDate", "SeriesNumber", "SeriesDescription"),
    *("Modality", "ImageType", "ContrastBolusAgent", "NumberOfFrames", "InstanceNumber", "SOPInstanceUID"),
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
    if not candidates:
        return [], []
    found: dict[str, dict[str, _Slice]] = defaultdict(dict)
    headers: dict[str, Header] = {}
    left_out: list[SetAside] = []
    with Progress("reading DICOM headers", len(candidates), unit="files") as progress:
        for path in candidates:
            progress.advance()
            try:
                header, uid, part = _read_header(path)
            except _NotDicomError as error:
                left_out.append(SetAside(str(path), str(error)))
                continue
            headers.setdefault(header.series, header)
            if (kept := found[header.series].setdefault(uid, part)) is not part:
                left_out.append(SetAside(str(path), f"a copy of {kept.path}"))
    entries = []
    for uid, header in headers.items():
        parts = sorted(found[uid].values())
        slices = tuple(part.path for part in parts)
        if reason := _unfit(header, sum(part.frames for part in parts), derived=derived, least=min_slices):
            where, what = str(slices[0].parent), f"series {_title(header)}: {reason}"
            left_out.append(SetAside(where, what, num_files=str(len(slices))))
        else:
            entries.append(_entry(header, slices, source))
    return entries, left_out


class _Slice(NamedTuple):
    """A file of a series: its place, the file, and how many slices it holds."""

    instance: int
    path: Path
    frames: int


class _NotDicomError(Exception):
    """Why a file is no DICOM image."""


def may_be_dicom(path: Path) -> bool:
    """By its name, or, where that says nothing, by the four letters that DICOM files begin with."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES and not suffix[1:].isdigit():
        return False
    if suffix in SUFFIXES[1:]:
        return True
    try:
        with path.open("rb") as file:
            return file.read(MAGIC_AT + 4)[MAGIC_AT:] == MAGIC
    except OSError:
        return False


def _read_header(path: Path) -> tuple[Header, str, _Slice]:
    """A file's header, the name that copies of it share, and its part of the series."""
    import pydicom  # here: only DICOM needs it

    try:
        tags = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
        text = {name: str(tags.get(name) or "").strip() for name in TAGS}
        kinds = tags.get("ImageType") or ()
        kinds = (kinds,) if isinstance(kinds, str) else kinds  # pydicom unpacks a single value
        image_type = tuple(str(part).upper() for part in kinds)
        instance, frames = int(text["InstanceNumber"] or 0), int(text["NumberOfFrames"] or 1)
    except Exception as error:  # pydicom raises nearly anything on damaged headers
        raise _NotDicomError(f"no DICOM header that can be read ({type(error).__name__})") from error
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
    return header, text["SOPInstanceUID"] or str(path), _Slice(instance, path, frames)


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
    with tempfile.TemporaryDirectory(prefix="mdae-dicom-") as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for number, path in enumerate(entry.slices):
            (folder / "in" / f"{number:06d}.dcm").symlink_to(path.absolute())
        volume = _convert(folder, entry.path, series)
        try:
            return replace(read_scan(volume, series=series, min_slices=min_slices), path=entry.path)
        except ScanError as error:
            raise ScanError(error.what, where=entry.path, mend=error.mend) from error


def _convert(folder: Path, where: Path, series: Series) -> Path:
    """The NIfTI of a folder of slices."""
    program = find_program(
        "dcm2niix",
        purpose="DICOM series are read by it",
        mend="pip install dcm2niix, or from your system's packages",
    )
    _, said = run_program([program, "-b", "n", "-z", "n", "-f", "volume", "-o", folder, folder / "in"])
    volumes = sorted(folder.glob("*.nii"))
    if not volumes:
        reason = f"dcm2niix makes nothing of it ({last_complaint(said)})"
        raise ScanError(reason, where=where, mend="export the series again")
    if uneven := UNEVEN.search(said):
        raise ScanError(
            f"slices are missing or uneven ({uneven[0].strip()})", where=where, mend="export the series again"
        )
    if len(volumes) > 1 and series == "set_aside":
        names = ", ".join(path.stem for path in volumes)
        raise ScanError(
            f"one series of {len(volumes)} volumes ({names})",
            where=where,
            mend="take the first with --series first",
        )
    return volumes[0]
