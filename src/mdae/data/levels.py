"""Plain folders: which level is the subject, or whether the file names are; from what repeats in the whole tree.

Folders of contrasts and visits are nobody; a folder around everything neither. Of those left, a level whose names
repeat under several parents is below the subject, unless the parents are sites; file names that are ids of a register,
or that stand by the dozen in folders of groups, are subjects themselves. Folders of whole data sets are
read one by one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mdae.data.names import (
    GENERIC,
    GROUP,
    INSIDE,
    NEUTRAL,
    NUMBERED_SCAN,
    SEPARATOR,
    UNSURE_VISIT,
    numbered,
    plain_name,
    shape_of,
    without_prefix,
)

ALIKE = 0.5  # share of names under several parents, from which they repeat
COINCIDE = 0.8  # share of subjects in every folder, from which the folders are contrasts of the same people
MANY = 4  # scans in a folder, from which folders of words are groups of subjects


class Place(NamedTuple):
    """Where a scan lies: the folders below the source, and its name without suffixes."""

    folders: tuple[str, ...]
    stem: str


@dataclass(frozen=True)
class Found:
    """Whose a scan is, told by a folder or by the file's name, below folders that may be sites."""

    subject: str
    session: str
    contrast: str
    by_folder: bool
    above: tuple[str, ...]


class Level(NamedTuple):
    """A folder that may be somebody: how deep it lies, its name, and what of it is neither contrast nor visit."""

    depth: int
    name: str
    identity: str


def read(places: Iterable[Place], source: str, rule: str = "auto") -> dict[Place, Found]:
    """Whose each scan is.

    Args:
        places: all scans of the tree.
        source: the name of the folder around them, the subject where nothing below it tells one.
        rule: "folder" or "name" for one of them alone, "auto" to decide.
    """
    places = list(places)
    return (_data_sets(places) if rule == "auto" else None) or _read(places, source, rule)


def _data_sets(places: list[Place]) -> dict[Place, Found] | None:
    """A folder of data sets, each read by itself; None unless every folder holds a register of its own.

    Together they would be read wrongly, for each has levels and names of its own. Ids of one kind in a folder and of
    another kind in the next tell data sets from people whose scans are numbered, if they are many or more than numbers.
    """
    branches: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        branches[place.folders[0] if place.folders else ""].append(place)
    if len(branches) < 2 or numbered(branches) or any(not b or INSIDE.fullmatch(b) for b in branches):
        return None
    found: dict[Place, Found] = {}
    shapes: list[set[str]] = []
    everybody: list[str] = []
    for name, branch in branches.items():
        inner = _read([Place(place.folders[1:], place.stem) for place in branch], name, "auto")
        subjects = {one.subject for one in inner.values()}
        if not numbered(subjects):
            return None
        everybody += subjects
        shapes.append(set(map(shape_of, subjects)))
        found |= {
            Place((name, *place.folders), place.stem): replace(one, above=(name, *one.above))
            for place, one in inner.items()
        }
    disjoint = len(set().union(*shapes)) == sum(map(len, shapes))
    register = len(everybody) > MANY * len(branches) or not all(map(NUMBERED_SCAN.fullmatch, everybody))
    return found if disjoint and register else None


def _read(places: list[Place], source: str, rule: str) -> dict[Place, Found]:
    """As `read`, all places alike."""
    runs = _without_wrapper({place: _run(place) for place in places}, keep=rule == "folder")
    by_length: dict[int, list[Place]] = defaultdict(list)
    for place, run in runs.items():
        by_length[len(run)].append(place)
    depth_of: dict[Place, int | None] = {}  # of the folder that is the subject; None for the file's name
    parents: set[tuple[str, ...]] = set()  # folders whose folders are subjects
    for length in sorted(by_length):
        group = {place: runs[place] for place in by_length[length]}
        known = {
            place: next((level.depth for level in run if place.folders[: level.depth] in parents), None)
            for place, run in group.items()
        }
        depth_of |= {place: depth for place, depth in known.items() if depth is not None}
        rest = {place: run for place, run in group.items() if known[place] is None}
        depth_of |= _decide(rest, length, rule)
        parents |= {place.folders[:depth] for place in rest if (depth := depth_of[place]) is not None}
    found = {place: _found(place, depth_of[place], source) for place in runs}
    return _shortened(found, rule)


def apart(above: Sequence[str]) -> tuple[str, ...]:
    """Of the folders above subjects those that tell people apart: not contrasts, visits, or what scans lie in."""
    told = (plain_name(name).identity for name in above if not INSIDE.fullmatch(name))
    return tuple(identity for identity in told if identity)


def _run(place: Place) -> list[Level]:
    """The folders that may be somebody; a name that may be a visit or an id is an id where nothing else is."""
    run = _unbroken(place.folders, unsure=False)
    if not _rest(place) and all(GROUP.fullmatch(level.identity) for level in run):
        return _unbroken(place.folders, unsure=True)
    return run


def _unbroken(folders: Sequence[str], *, unsure: bool) -> list[Level]:
    """The first run of folders that may be somebody: below a visit or a contrast of somebody nobody else is."""
    run: list[Level] = []
    for depth, name in enumerate(folders):
        if NEUTRAL.fullmatch(name):
            continue
        identity = "" if INSIDE.fullmatch(name) else plain_name(name).identity
        if unsure and UNSURE_VISIT.fullmatch(name):
            identity = name
        if identity:
            run.append(Level(depth, name, identity))
        elif not all(GROUP.fullmatch(level.identity) for level in run):
            break
    return run


def _without_wrapper(runs: dict[Place, list[Level]], *, keep: bool) -> dict[Place, list[Level]]:
    """Runs without the folders around everything, as long as something below them tells subjects apart."""
    while runs and all(runs.values()) and len({run[0].identity for run in runs.values()}) == 1:
        deeper = all(len(run) > 1 for run in runs.values())
        rests = {_rest(place) for place in runs}
        several_rests = len(rests) > 1 and "" not in rests
        if not deeper and (keep or not several_rests):
            break
        runs = {place: run[1:] for place, run in runs.items()}
    return runs


def _rest(place: Place) -> str:
    """What of a file's name is neither its folders', nor contrast or visit, nor says only that it is a scan."""
    told = plain_name(without_prefix(place.stem, place.folders))
    repeat = bool(told.contrast) and len(told.identity) == 1 and told.identity.isdigit()
    return "" if repeat or GENERIC.fullmatch(told.identity) else told.identity


def _decide(runs: dict[Place, list[Level]], length: int, rule: str) -> dict[Place, int | None]:
    """For scans under equally many folders that may be somebody: the depth of the subject's, None for the name."""
    if length == 0 or rule == "name" or not runs:
        return dict.fromkeys(runs)
    index = 0
    while index + 1 < length and _deeper(runs, index):
        index += 1
    if rule == "auto" and index + 1 == length and _by_name(runs, index):
        return dict.fromkeys(runs)
    return {place: run[index].depth for place, run in runs.items()}


def _deeper(runs: dict[Place, list[Level]], index: int) -> bool:
    """Whether the subject is below this level: it is one of sites or groups, not of people with visits."""
    parents: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for run in runs.values():
        parents[run[index + 1].identity].add(tuple(level.name for level in run[: index + 1]))
    upper = {run[index].identity for run in runs.values()}
    if all(map(GROUP.fullmatch, upper)):
        return True
    if numbered(upper):
        return False
    repeated = sum(len(above) > 1 for above in parents.values()) / len(parents)
    if repeated > ALIKE:
        return numbered(parents) and len(parents) > len(upper)
    return True


def _by_name(runs: dict[Place, list[Level]], index: int) -> bool:
    """Whether subjects are in the file names, below folders of sites, groups or contrasts."""
    rests: dict[tuple[str, ...], set[str]] = defaultdict(set)
    owners: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for place, run in runs.items():
        folder, rest = tuple(level.name for level in run[: index + 1]), _rest(place)
        rests[folder].add(rest)
        owners[rest].add(folder)
    if "" in owners or max(map(len, rests.values())) == 1:
        return False
    names = {run[index].identity for run in runs.values()}
    if all(map(GROUP.fullmatch, names)):
        return True
    repeated = sum(len(folders) > 1 for folders in owners.values()) / len(owners)
    if numbered(names) and len(names) > 1:
        return False
    if numbered(owners, strictly=repeated > ALIKE):
        return True
    return repeated <= ALIKE and len(runs) / len(rests) > max(MANY, len(rests))


def _found(place: Place, depth: int | None, source: str) -> Found:
    """One scan, its subject's level known."""
    if depth is None:
        return _named(place, source)
    name = place.folders[depth]
    own, below = plain_name(name), place.folders[depth + 1 :]
    told = plain_name(without_prefix(place.stem, [*place.folders, own.identity]))
    folders = (*below, *([name] if own.identity else []), *place.folders[:depth])
    session = next(
        (visit for visit in (plain_name(folder).session for folder in folders) if visit), told.session
    )
    return Found(own.identity or name, session, _contrast(place, depth), True, place.folders[:depth])


def _contrast(place: Place, depth: int) -> str:
    """The contrast of a scan in its subject's folder: the rest of its name, or the folder's if that tells one."""
    own = place.folders[depth]
    rest = without_prefix(place.stem, [*place.folders, plain_name(own).identity])
    told = plain_name(rest)
    if told.contrast:
        return told.contrast if told.session or re.search(r"\d{5}", rest) else rest
    folders = (*reversed(place.folders[depth:]), *place.folders[:depth])
    kinds = (plain_name(name).contrast for name in folders if not INSIDE.fullmatch(name))
    return next((kind for kind in kinds if kind), rest or place.stem)


def _named(place: Place, source: str) -> Found:
    """One scan whose file name tells the subject."""
    told = plain_name(place.stem)
    folders = [plain_name(name) for name in reversed(place.folders)]
    contrast = told.contrast or next((folder.contrast for folder in folders if folder.contrast), "")
    session = told.session or next((folder.session for folder in folders if folder.session), "")
    identity = told.identity
    if not identity:
        identity = next(
            (folder.identity for folder in folders if folder.identity),
            source if told.contrast else place.stem,
        )
    return Found(identity, session, contrast, False, place.folders)


def _shortened(found: dict[Place, Found], rule: str) -> dict[Place, Found]:
    """Subjects of names with contrasts cut to their first word if it tells all apart: IXI002 of IXI002-Guys-0828."""
    named = {place: one for place, one in found.items() if not one.by_folder}
    if not named or rule == "name" or not all(one.contrast for one in named.values()):
        return _merged(found)
    whole = {one.subject for one in named.values()}
    first = {name: SEPARATOR.split(name)[0] for name in whole}
    if len(set(first.values())) == len(whole) and numbered(set(first.values())):
        named = {place: replace(one, subject=first[one.subject]) for place, one in named.items()}
    return _merged(found | named)


def _merged(found: dict[Place, Found]) -> dict[Place, Found]:
    """Where file names tell subjects and the folders hold much the same ones, the folders are no sites."""
    inside: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for one in found.values():
        if not one.by_folder:
            inside[apart(one.above)].add(one.subject)
    folders: Collection[str] = {name for above in inside for name in above}
    everybody = set().union(*inside.values()) if inside else set()
    alike = all(len(names) >= COINCIDE * len(everybody) for names in inside.values())
    if len(inside) < 2 or not alike or any(map(GROUP.fullmatch, folders)):
        return found
    return {p: one if one.by_folder else replace(one, above=()) for p, one in found.items()}
