"""Whose a scan is: which part of a path names the subject is decided from the whole tree, said, and can be changed.

BIDS names a subject in the folder `sub-`, FreeSurfer in the one around `mri`, nnU-Net and the Medical Segmentation
Decathlon (MSD) take the case. Elsewhere
folders may be subjects, sites, groups, contrasts or visits, and file names may hold the subject; what repeats tells.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mdae.data import levels
from mdae.data.formats import scan_stem
from mdae.data.freesurfer import freesurfer_volumes
from mdae.data.names import SUBJECT_FOLDER, bids_name
from mdae.errors import ConfigError
from mdae.text import counted

logger = logging.getLogger(__name__)

IMAGES = re.compile(r"images(tr|ts|va|val|test|train)?", re.IGNORECASE)
CHANNEL = re.compile(r"(.+)_(\d{4})")
MAX_CHANNELS = 16
DATASET = "dataset.json"
BIDS, CASES, FOLDERS, NAMES = "BIDS's names", "the cases' names", "the folders", "the file names"
RECON = "FreeSurfer's folders"
VISIT = re.compile(r"(.*[^\W_].*?)[-_ .](?:[RLV]_?)?(\d{1,3}|[a-d])", re.IGNORECASE)
MANY_VISITS = 12


@dataclass(frozen=True)
class Person:
    """Whose a scan is, and when and how it was taken; "" where nothing says so.

    Attributes:
        subject, session, contrast: as in `ScanEntry`.
        how: what told the subject.
        above: folders that keep equal names of other people apart, where there are such.
    """

    subject: str
    session: str
    contrast: str
    how: str
    above: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """How a source's subjects were read.

    Attributes:
        how: what told them, in words: "the file names".
        num_subjects: how many there are.
        example: a subject, and the path that it was read from.
        num_scans: how many scans there are of them.
        cases: whether they are cases of nnU-Net or the Medical Segmentation Decathlon.
        visits: subjects whose names differ in a last number alone, by what they share.
    """

    how: str
    num_subjects: int
    example: tuple[str, str]
    num_scans: int = 0
    cases: bool = False
    visits: dict[str, list[str]] = field(default_factory=dict)

    def line(self) -> str:
        """The same for people."""
        subject, path = self.example
        if not self.num_scans:
            return "no scan to take"
        return f"{counted(self.num_subjects, 'subject')}, from {self.how}, e.g. {subject} ({path})"


def check_rule(rule: str) -> None:
    """Raises `ConfigError` for a rule that is none of auto, folder, name or a regular expression."""
    try:
        re.compile(rule)
    except re.error as error:
        mend = "give auto, folder, name or a regular expression, such as '(P\\d+)'"
        raise ConfigError(f"--subject-from {rule!r} is no regular expression ({error})", mend=mend) from error


def read_people(paths: Sequence[Path], root: Path, rule: str = "auto") -> dict[Path, Person | None]:
    """Whose each scan is.

    Args:
        paths: the scans, below `root`.
        root: the source; its own name is the subject where nothing else tells one.
        rule: "auto", "folder", "name", or a regular expression that is searched in the path below the root, whose first
            group (or else all of it) is the subject; None for scans in which it is not found.
    """
    people = _told(paths, root)
    if rule == "auto":
        return _apart(people)
    if rule not in ("folder", "name"):
        return _by_pattern(people, root, rule)
    below = {path: _place(path, root) for path in paths}
    told = levels.read(below.values(), root.resolve().name, rule)
    how = FOLDERS if rule == "folder" else NAMES
    return _apart(
        {
            path: replace(people[path], subject=told[place].subject, how=how, above=told[place].above)
            for path, place in below.items()
        }
    )


def _place(path: Path, root: Path) -> levels.Place:
    return levels.Place(path.relative_to(root).parts[:-1], scan_stem(path))


def _told(paths: Sequence[Path], root: Path) -> dict[Path, Person]:
    """Whose each scan is by BIDS, by nnU-Net and MSD, by FreeSurfer, or else by the tree."""
    people: dict[Path, Person] = {}
    rest: dict[Path, levels.Place] = {}
    channels, recons = _channels(paths, root), freesurfer_volumes(paths, root)
    for path in paths:
        folders, stem = place = _place(path, root)
        if bids := bids_name(stem, folders):
            depth = next((d for d, name in enumerate(folders) if SUBJECT_FOLDER.match(name)), len(folders))
            people[path] = Person(bids.subject, bids.session, bids.contrast, BIDS, folders[:depth])
        elif path in channels:
            case, contrast = channels[path]
            people[path] = Person(case, "", contrast, CASES, folders)
        elif recon := recons.get(path):
            own = recon.folder
            people[path] = Person(own.identity, own.session, recon.contrast, RECON, recon.above)
        else:
            rest[path] = place
    told = levels.read(rest.values(), root.resolve().name)
    for path, place in rest.items():
        found = told[place]
        how = FOLDERS if found.by_folder else NAMES
        people[path] = Person(found.subject, found.session, found.contrast, how, found.above)
    return people


def _by_pattern(people: dict[Path, Person], root: Path, rule: str) -> dict[Path, Person | None]:
    """The subjects as a user's regular expression has them."""
    pattern, how = re.compile(rule), f"--subject-from {rule!r}"
    named: dict[Path, Person | None] = {}
    for path, person in people.items():
        found = pattern.search(path.relative_to(root).as_posix())
        name = next((group for group in found.groups() if group), "") or found[0] if found else ""
        named[path] = replace(person, subject=name, how=how, above=()) if name else None
    return named


def _apart(people: dict[Path, Person]) -> dict[Path, Person | None]:
    """Equal names in folders of other people, of sites say, told apart by those folders."""
    ambiguous = dict.fromkeys((BIDS, CASES, RECON, FOLDERS, NAMES), False)
    owners: dict[tuple[str, str], tuple[str, ...]] = {}
    for person in people.values():
        above = levels.apart(person.above)
        if owners.setdefault((person.how, person.subject), above) != above:
            ambiguous[person.how] = True
    return {
        path: replace(person, subject="/".join([*levels.apart(person.above), person.subject]))
        if ambiguous[person.how]
        else person
        for path, person in people.items()
    }


def _channels(paths: Iterable[Path], root: Path) -> dict[Path, tuple[str, str]]:
    """Case and contrast of the files of nnU-Net's and MSD's data sets, and of flat folders named like them."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        by_folder[path.parent].append(path)
    found = {}
    for folder, files in by_folder.items():
        images = folder != root and bool(IMAGES.fullmatch(folder.name))
        names = _contrasts(folder.parent if images else folder)
        stems = {file: CHANNEL.fullmatch(scan_stem(file)) for file in files}
        numbers = {match[2] for match in stems.values() if match}
        cases = {match[1] for match in stems.values() if match}
        every = all(stems.values())
        if names is not None:
            numbered = every and all(int(number) < len(names) for number in numbers)
        else:
            numbered = every and len(numbers) <= MAX_CHANNELS and (images or len(cases) >= len(numbers))
            numbered = numbered and ("0000" in numbers or len(numbers) == 1)
        plain = folder.name.casefold() == "images"
        if not numbered and names is None and (plain or not images):
            continue
        for file, match in stems.items():
            case, number = (match[1], int(match[2])) if match and numbered else (scan_stem(file), 0)
            contrast = names[number] if names else (f"{number:04d}" if numbered and len(numbers) > 1 else "")
            found[file] = (case, contrast)
    return found


def _contrasts(folder: Path) -> list[str] | None:
    """The names of the channels in a folder's dataset.json, in order; None without one that tells."""
    try:
        about = json.loads((folder / DATASET).read_text())
        names = about.get("channel_names") or about["modality"]
        return [str(names[number]) for number in sorted(names, key=int)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def describe(people: Iterable[tuple[str, str, str]]) -> Reading:
    """What is said of a reading: of subject, path below the source and what told it, of each scan."""
    rows = list(people)
    if not rows:
        return Reading("nothing", 0, ("", ""))
    hows = Counter(how for _, _, how in rows)
    subjects = sorted({subject for subject, _, _ in rows})
    first = min(rows, key=lambda row: row[1])
    return Reading(
        how=" and ".join(how for how, _ in hows.most_common()),
        num_subjects=len(subjects),
        example=(first[0], first[1]),
        num_scans=len(rows),
        cases=set(hows) == {CASES},
        visits=visits_of(subjects),
    )


def visits_of(subjects: Sequence[str]) -> dict[str, list[str]]:
    """Subjects that may be visits of one patient: names alike up to a last small number, of several patients alike."""
    shared: dict[str, list[str]] = defaultdict(list)
    endings = set()
    for name in subjects:
        if match := VISIT.fullmatch(name):
            shared[match[1]].append(name)
            endings.add(match[2])
    groups = {base: names for base, names in shared.items() if len(names) > 1 and any(map(str.isdigit, base))}
    few = len(endings) <= MANY_VISITS and len(shared) >= len(endings)
    return groups if few and groups else {}


def warn_of(reading: Reading, where: Path) -> None:
    """Say loudly what a reading cannot be meant to be: a single subject, or visits that count as people."""
    warn_of_one(reading.num_subjects, reading.num_scans, reading.example[0], where)
    warn_of_visits(reading.visits, where)


def warn_of_one(num_subjects: int, num_scans: int, subject: str, where: Path) -> None:
    """Say loudly that all scans are of one subject."""
    if num_subjects == 1 and num_scans > 1:
        logger.warning(
            "%s: all %d scans are of one subject, %s, so none can be held out; if they are of several people, "
            "tell them apart: mdae prepare --subject-from name, folder or REGEX, or --subjects TABLE",
            *(where, num_scans, subject),
        )


def warn_of_visits(visits: Mapping[str, list[str]], where: Path) -> None:
    """Say loudly that subjects may be visits of one patient."""
    if visits:
        base, names = next(iter(visits.items()))
        logger.warning(
            "%s: %d subjects have names that differ in a last number alone, e.g. %s and %s: if these are visits of one "
            "patient, say so by --subject-from %s or --subjects TABLE, or one person may be on both sides of a split",
            *(where, sum(map(len, visits.values())), names[0], names[1], _pattern(base)),
        )


def _pattern(base: str) -> str:
    """A regular expression of names like this one."""
    return (
        "'("
        + re.sub(r"\d+", r"\\d+", re.sub(r"([.+*?()\[\]{}|^$\\])", r"\\\1", base.rsplit("/", 1)[-1]))
        + ")'"
    )
