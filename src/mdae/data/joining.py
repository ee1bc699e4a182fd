"""Labels to scans: which row of a table speaks of which scan, and everything on either side that found no partner."""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mdae.data.columns import columns_called, find_column
from mdae.data.name_matching import EXACT, FILES, PEOPLE, SCANS, SESSIONS, Matched, match_names
from mdae.data.table_files import MISSING_WORDS, as_numbers
from mdae.errors import DataError
from mdae.text import counted

NOT_APPLICABLE = "n/a"  # BIDS's word for a cell without a value
WAYS = {"scan": SCANS, "path": FILES, "subject": PEOPLE}  # what tables are joined by, the most exact first
SHOWN = 3  # examples

Spot = tuple[str, str]  # a scan, path or subject of the features, and a session or ""


@dataclass(frozen=True)
class Joined:
    """Rows of scans with their label.

    Attributes:
        rows: of the features, with the label's column and, if there is one, `split`.
        notes: what a reader has to know of the join, a line each.
    """

    rows: pd.DataFrame
    notes: list[str]


@dataclass
class _Way:
    """One way to join: what each spot's rows say.

    Attributes:
        by: scan, path or subject.
        column: what the labels call it.
        said: (label, split) of all rows of a spot.
        spots: of the features, a row each.
        matched: the names.
        lost: rows' names that found no scan.
        notes: what else is to be told.
    """

    by: str
    column: str
    said: dict[Spot, list[tuple[Hashable, ...]]]
    spots: list[Spot]
    matched: Matched
    lost: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """How many rows of labels are of use: they found a scan, and nothing contradicts them."""
        return sum(len(rows) for rows in self.said.values() if len(set(rows)) == 1)


def join_labels(
    features: pd.DataFrame,
    labels: pd.DataFrame,
    label: str,
    where: Path,
    *,
    missing: Sequence[str] = (),
    words: bool = False,
) -> Joined:
    """Join by scan, path or subject, whichever most rows find a partner by; by session as well, where both have one.

    Names need not be spelled alike (`mdae.data.name_matching`). A row without a session speaks of all sessions of its
    subject. Rows that contradict each other speak of nothing.

    Args:
        features: a row a scan; scan, path, subject and session as far as it has them.
        labels: a row a scan, session or subject.
        label: a column of `labels`.
        where: the file of the labels.
        missing: words that are no label.
        words: take words between numbers (None, NA) for labels too, instead of leaving them out.

    Raises:
        DataError: no such column or one that the features have as well, nothing to join by, or no row in common.
    """
    name = find_column(labels, label)
    if name is None:
        columns = ", ".join(map(str, labels.columns))
        raise DataError(
            f"no column {label!r}; it has {columns}", where=where, mend="choose --label among them"
        )
    split = find_column(labels, "split") if label != "split" else None
    _require_new([label, *(["split"] if split else [])], features, where)
    values, notes = label_column(labels[name], missing, words=words)
    labelled = labels.assign(**{name: values})[values.notna()]
    if labelled.empty:
        raise DataError("no labelled row", where=where, mend=f"fill the column {name!r}")
    kept = [name, *([split] if split else [])]
    ways = [
        _way(by, column, features, labelled, kept, where)
        for by in WAYS
        for column in columns_called(labels, by)
        if by in features.columns and column not in kept
    ]
    if not ways:
        columns = ", ".join(map(str, labels.columns))
        raise DataError(
            f"no column to join by; it has {columns}", where=where, mend=f"add one of {', '.join(WAYS)}"
        )
    best = max(ways, key=lambda way: way.num_rows)  # the first of several: the most exact
    if unused := [way.column for way in ways[: ways.index(best)]]:
        notes.append(f"joined by {best.column}, for column {unused[0]!r} names fewer of these scans")
    rows = _joined(features, best, [label, "split"][: len(kept)], where)
    return Joined(rows, notes + _notes(best, features, len(labelled)))


def _require_new(kept: Iterable[str], features: pd.DataFrame, where: Path) -> None:
    if twofold := [name for name in kept if name in features.columns]:
        raise DataError(
            f"column {twofold[0]!r} is in the features table as well",
            where=where,
            mend="rename it in the labels",
        )


def label_column(
    cells: pd.Series, missing: Sequence[str] = (), *, words: bool = False
) -> tuple[pd.Series, list[str]]:
    """A column as labels: numbers where all but words for "no value" are; NaN where a row has none; and notes.

    Between other words, `None`, `NA` and `null` are labels like them: a table of three classes stays one of three.

    Args:
        cells: text or numbers.
        missing: words that are no label.
        words: never make numbers of a column that holds a word.
    """
    if pd.api.types.is_numeric_dtype(cells):
        return cells, _blank_note(int(cells.isna().sum()))
    text = cells.map(lambda cell: "" if pd.isna(cell) else str(cell).strip())
    dropped = {word.strip() for word in missing} | (set() if words else {NOT_APPLICABLE})
    notes = _blank_note(int((text == "").sum()))
    numbers = as_numbers(text.mask(text.str.casefold().isin([*MISSING_WORDS]) | text.isin(dropped), ""))
    if not words and pd.api.types.is_numeric_dtype(numbers):
        left = text[numbers.isna() & (text != "")]
        return numbers, notes + _word_note(left)
    return text.mask(text.isin(dropped) | (text == "")), notes + _word_note(text[text.isin(dropped)])


def _blank_note(number: int) -> list[str]:
    return [f"{number} rows have no label"] if number else []


def _word_note(left: pd.Series) -> list[str]:
    """Which words are taken for no label, and of how many rows."""
    counts = left.value_counts()
    said = ", ".join(f"{word!r} ({number})" for word, number in list(counts.items())[:SHOWN])
    return [f"{len(left)} rows say {said}, which is taken for no label"] if len(left) else []


def _way(
    by: str, column: str, features: pd.DataFrame, labels: pd.DataFrame, kept: Sequence[str], where: Path
) -> _Way:
    """The join by one column."""
    theirs, ours = _text(labels[column]), _text(features[by])
    if by == "path":
        theirs = _from_folder(theirs, ours, where.parent)
    matched = match_names(theirs, ours, WAYS[by])
    sessions, found, notes = _sessions(features, labels, by, kept)
    said: dict[Spot, list[tuple[Hashable, ...]]] = {}
    lost = []
    spots = list(zip(ours, sessions, strict=True))
    there = {*spots, *((name, "") for name in ours)}
    for name, session, row in zip(theirs, found, labels[list(kept)].itertuples(index=False), strict=True):
        spot = (matched.pairs.get(name, ""), session)
        if name in matched.pairs and spot in there:
            said.setdefault(spot, []).append(tuple(row))
        else:
            lost.append(name if not session else f"{name} {session}")
    return _Way(by, column, said, spots, matched, lost, notes)


def _text(cells: pd.Series) -> list[str]:
    return ["" if pd.isna(cell) else str(cell) for cell in cells]


def _from_folder(theirs: list[str], ours: list[str], folder: Path) -> list[str]:
    """Paths that are meant from the table's own folder as the features have them."""
    known, own = {os.path.abspath(path): path for path in ours}, set(ours)  # noqa: PTH100 - text, not files
    return [
        path if path in own or not path else known.get(os.path.abspath(folder / path), path)  # noqa: PTH100
        for path in theirs
    ]


def _sessions(
    features: pd.DataFrame, labels: pd.DataFrame, by: str, kept: Sequence[str]
) -> tuple[list[str], list[str], list[str]]:
    """Sessions of the features' rows, and of the labels' rows as the features call them; "" for all, and notes.

    A session that the features do not have stays as it is, and finds nothing.
    """
    column = find_column(labels, "session")
    blank = [""] * len(features), [""] * len(labels), list[str]()
    if by != "subject" or column is None or column in kept or "session" not in features.columns:
        return blank
    ours, theirs = _text(features["session"]), _text(labels[column])
    if not any(ours) or not any(theirs):
        return blank
    matched = match_names(theirs, [name for name in ours if name], SESSIONS)
    if not matched.pairs:
        shown = next(name for name in theirs if name), next(name for name in ours if name)
        note = "no session in common with the scans, e.g. {!r} and {!r}: labels are taken by subject"
        return blank[0], blank[1], [note.format(*shown)]
    return ours, [matched.pairs.get(name, name) for name in theirs], _loose_notes(matched, "session")


def _joined(features: pd.DataFrame, way: _Way, names: Sequence[str], where: Path) -> pd.DataFrame:
    """The rows of the features of which one thing is said."""
    said = [_said(way, spot) for spot in way.spots]
    there = [len(rows) == 1 for rows in said]
    if not any(there):
        raise DataError(_nothing(way, said), where=where, mend="check the names on both sides")
    found = pd.DataFrame([next(iter(rows)) for rows in said if len(rows) == 1], columns=list(names))
    kept = features[there].reset_index(drop=True)
    return pd.concat([kept, found], axis=1)


def _said(way: _Way, spot: Spot) -> set[tuple[Hashable, ...]]:
    """What is said of a spot: of its session, else of all sessions."""
    return set(way.said.get(spot) or way.said.get((spot[0], "")) or [])


def _nothing(way: _Way, said: Sequence[Collection[object]]) -> str:
    if any(said):
        return f"all rows of every {way.by} contradict each other"
    theirs, ours = next(iter(way.lost), ""), next((name for name, _ in way.spots), "")
    return f"no {way.by} in common with the features, e.g. {theirs!r} and {ours!r}"


def _notes(way: _Way, features: pd.DataFrame, num_rows: int) -> list[str]:
    """What the join left out or took loosely, with numbers and examples."""
    notes = [*way.notes, *_loose_notes(way.matched, way.by)]
    if way.lost:
        notes.append(f"{len(way.lost)} of {num_rows} labelled rows find no scan, e.g. {_examples(way.lost)}")
    said = [_said(way, spot) for spot in way.spots]
    contradicted = [spot for spot, rows in zip(way.spots, said, strict=True) if len(rows) > 1]
    if contradicted:
        shown = _examples(" ".join(filter(None, spot)) for spot in contradicted)
        notes.append(
            f"{_are(len(set(contradicted)), way.by)} left out, for their rows contradict each other, e.g. {shown}"
        )
    bare = [" ".join(filter(None, spot)) for spot, rows in zip(way.spots, said, strict=True) if not rows]
    if bare:
        notes.append(f"{len(bare)} of {len(features)} scans have no label, e.g. {_examples(bare)}")
    return notes


def _are(number: int, what: str) -> str:
    return counted(number, f"{what} is", f"{what}s are")


def _loose_notes(matched: Matched, what: str) -> list[str]:
    notes = []
    for how, pairs in matched.loose.items():
        if how != EXACT:
            theirs, ours = pairs[0]
            notes.append(f"{_are(len(pairs), what)} matched {how}, e.g. {theirs!r} to {ours!r}")
    if matched.ambiguous:
        notes.append(
            f"not matched, for there are several of the name: {counted(len(matched.ambiguous), what)}, "
            f"e.g. {_examples(matched.ambiguous)}"
        )
    return notes


def _examples(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in list(dict.fromkeys(names))[:SHOWN])
