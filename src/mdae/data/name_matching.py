"""The same person, visit or file under two spellings: names of two tables are paired where that is unambiguous.

Spreadsheets turn 007 into 7 or 7.0, BIDS takes the hyphens out of ADNI's names, people write SUB- and blanks after it.
Exact names pair first; of the rest, a looser reading pairs two names only if it reads no other name of either side so.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from mdae.data.formats import scan_stem

Form = Callable[[str], str]
EXACT = ""  # the name of the reading that needs no telling


@dataclass
class Matched:
    """Which names are the same.

    Attributes:
        pairs: theirs to ours.
        loose: those of the pairs that differ in more than a prefix and blanks, by how they were read.
        ambiguous: theirs that a looser reading would give to more than one, and that are not paired.
    """

    pairs: dict[str, str] = field(default_factory=dict)
    loose: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    ambiguous: list[str] = field(default_factory=list)


def bare(name: str, prefix: str = "sub-") -> str:
    """A name without blanks around it and without BIDS's prefix, its umlauts written in one way."""
    name = unicodedata.normalize("NFC", name).strip()
    return name[len(prefix) :] if name.casefold().startswith(prefix) and len(name) > len(prefix) else name


def _number(name: str) -> str:
    """007, 7 and 7.0 as 7; any other name as it is, without regard to capitals."""
    whole = re.fullmatch(r"(\d+)(\.0*)?", name)
    return str(int(whole[1])) if whole else name.casefold()


def _letters(name: str) -> str:
    kept = "".join(letter for letter in name.casefold() if letter.isalnum())
    return kept or name


PEOPLE: dict[str, Form] = {
    EXACT: bare,
    "whatever the capitals": lambda name: bare(name).casefold(),
    "as numbers": lambda name: _number(bare(name)),
    "by letters and digits alone": lambda name: _letters(bare(name)),
    "by the last part": lambda name: _number(bare(bare(name).rsplit("/", 1)[-1])),
}
SESSIONS: dict[str, Form] = {
    EXACT: lambda name: bare(name, "ses-"),
    "whatever the capitals": lambda name: bare(name, "ses-").casefold(),
    "as numbers": lambda name: _number(bare(name, "ses-")),
    "by letters and digits alone": lambda name: _letters(bare(name, "ses-")),
}
SCANS: dict[str, Form] = {
    EXACT: lambda name: unicodedata.normalize("NFC", name).strip(),
    "without the ending": lambda name: scan_stem(Path(bare(name, "\0"))),
    "whatever the capitals": lambda name: scan_stem(Path(bare(name, "\0"))).casefold(),
}
FILES: dict[str, Form] = {
    EXACT: lambda name: PurePath(bare(name, "\0").replace("\\", "/")).as_posix(),
    "by the file's name": lambda name: PurePath(bare(name, "\0").replace("\\", "/")).name,
}


def match_names(theirs: Iterable[str], ours: Iterable[str], forms: dict[str, Form] = PEOPLE) -> Matched:
    """Pair names of two sides.

    Args:
        theirs: of a table of labels; blank ones are nobody.
        ours: of the scans.
        forms: readings, strictest first.
    """
    found = Matched()
    left, own = sorted({name for name in theirs if name.strip()}), sorted(set(ours))
    taken: set[str] = set()
    for how, form in forms.items():
        groups: dict[str, list[str]] = {}
        for name in own:
            groups.setdefault(form(name), []).append(name)
        rivals: dict[str, list[str]] = {}
        for name in left:
            rivals.setdefault(form(name), []).append(name)
        for reading, names in rivals.items():
            candidates = groups.get(reading, [])
            if how == EXACT:
                pairs = [(name, candidate) for name in names for candidate in candidates[:1]]
                sole = len(candidates) == 1
            else:
                pairs = [(name, candidate) for name in names for candidate in candidates]
                sole = len(pairs) == 1 and candidates[0] not in taken
            if sole:
                found.pairs |= dict(pairs)
                if how != EXACT:
                    found.loose.setdefault(how, []).extend(pairs)
            elif candidates:
                found.ambiguous += [name for name in names if name not in found.ambiguous]
        taken |= set(found.pairs.values())
        left = [name for name in left if name not in found.pairs]
    found.ambiguous = [name for name in found.ambiguous if name not in found.pairs]
    return found
