"""Who is in a task: subjects with the label and the scans, each once, and what part of a split each is in."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from mdae.data.columns import with_columns
from mdae.data.name_matching import bare, match_names
from mdae.data.subject_table import with_subjects
from mdae.data.tables import read_text_table
from mdae.errors import DataError
from mdae.tasks.attributes import attributes_of
from mdae.tasks.label_words import require_words
from mdae.tasks.layouts import Case, read_cases
from mdae.tasks.record import MISSING, Task
from mdae.text import counted

logger = logging.getLogger(__name__)

Seen = TypeVar("Seen")
OWN_LAYOUTS = ("table", "bids", "nnunet")  # whose names are no data set's
COPIES = "the same scan as another subject's"


@dataclass(frozen=True)
class Cohort:
    """The labelled subjects of a task.

    Attributes:
        cases: those with the label and every wanted contrast.
        labels: (N,), of the cases; NaN for segmentation, whose labels are masks.
        excluded: number of others by reason.
        data_set: whose subjects they are (`data_set_of`).
    """

    cases: list[Case]
    labels: np.ndarray
    excluded: dict[str, int]
    data_set: str = ""

    @property
    def subjects(self) -> np.ndarray:
        """(N,) names."""
        return np.array([case.subject for case in self.cases])

    @property
    def people(self) -> np.ndarray:
        """(N,) who they are: parts of a cross-validation and intervals are by person."""
        return np.array([case.whose for case in self.cases])

    @property
    def attributes(self) -> dict[str, dict[str, str]]:
        """Sex, age band and site by name of subject and of person, as far as the data set's table tells."""
        known = [(case, attributes_of(case.row)) for case in self.cases]
        return {name: about for case, about in known if about for name in (case.whose, case.subject)}

    def without(self, reasons: dict[int, str]) -> Cohort:
        """The cohort less the cases of these numbers, whose reasons are counted."""
        excluded = dict(self.excluded)
        for reason in reasons.values():
            excluded[reason] = excluded.get(reason, 0) + 1
        kept = [index for index in range(len(self.cases)) if index not in reasons]
        return Cohort([self.cases[index] for index in kept], self.labels[kept], excluded, self.data_set)


def _of_people(cases: Sequence[Case], table: Path, root: Path) -> list[Case]:
    """Cases with the people that a table says they are of."""
    firsts = [next(iter(case.scans.values())) for case in cases]
    named = with_subjects(firsts, table, root)
    return [replace(case, person=entry.subject) for case, entry in zip(cases, named, strict=True)]


def find_cohort(task: Task, data: Path, contrasts: Sequence[str], people: Path | None = None) -> Cohort:
    """The subjects of a data set with the label and every wanted contrast.

    Args:
        task: what is asked.
        data: the folder of the download.
        contrasts: scans that each has to have.
        people: a table with columns `scan` and `subject`, which says whose each case is.

    Raises:
        DataError: not that data set, a table without the column, or nobody is left.
    """
    cases, labels = [], []
    excluded: dict[str, int] = {}
    everybody = read_cases(task.layout, data)
    for case in everybody:
        label, reason = _label(task, case, data)
        if absent := [name for name in contrasts if name not in case.scans]:
            reason = reason or f"no {absent[0]}"
        if reason:
            excluded[reason] = excluded.get(reason, 0) + 1
        else:
            cases.append(case)
            labels.append(label)
    require_words(task, [case.row for case in everybody], data)
    if people is not None and cases:
        cases = _of_people(cases, people, data)
    if not cases:
        why = ", ".join(f"{number} with {reason}" for reason, number in excluded.items())
        mend = "see the label's rule by `mdae tasks NAME`, or name fewer --contrasts"
        raise DataError(f"nobody is left for {task.name}: {why}", where=data, mend=mend)
    return Cohort(cases, np.array(labels), excluded, data_set_of(task.layout, data, everybody))


def data_set_of(layout: str, data: Path, cases: Sequence[Case]) -> str:
    """What tells a data set from others: the layout of a public one; of one's own, a hash of whose scans lie where.

    Tables of one's own often call people alike (sub-01, sub-02), who are not the same for that. Neither the folder that
    it lies in nor the labels of its table matter.
    """
    if layout not in OWN_LAYOUTS:
        return layout
    root = data if data.is_dir() else data.parent
    scans = sorted(
        f"{case.subject} {name} {os.path.relpath(scan.path, root)} {_size(scan.path)}"
        for case in cases
        for name, scan in case.scans.items()
    )
    return f"{layout} {hashlib.sha256(chr(0).join(scans).encode(errors='surrogateescape')).hexdigest()[:16]}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _label(task: Task, case: Case, data: Path) -> tuple[float, str]:
    """A case's label, or why it has none."""
    if task.label is None:
        return np.nan, "" if case.mask else "no segmentation"
    try:
        label = task.label.value(case.row)
    except KeyError as error:
        have = ", ".join(case.row)
        raise DataError(
            f"no column {error} for {task.name}; it has {have}", where=data, mend="check the table"
        ) from error
    if contrary := [name for name in (task.label.column, task.label.event) if name in case.contradicted]:
        return np.nan, f"rows that contradict each other in {contrary[0]}"
    if label is not None:
        return label, ""
    said = case.row[task.label.column].strip()
    return np.nan, f"label {said!r}" if said and said.casefold() in MISSING else "no label that counts"


def copies(cohort: Cohort, contents: Sequence[Sequence[str]]) -> dict[int, str]:
    """The cases that share a scan with an earlier one, by number: with two names one person could be on both sides.

    Where their labels contradict each other, neither is kept.

    Args:
        cohort: N cases.
        contents: for each case the hashes of its scans' voxels.
    """
    first: dict[str, int] = {}
    found: dict[int, str] = {}
    for index, hashes in enumerate(contents):
        before = next((first[content] for content in hashes if content in first), None)
        if before is not None:
            found[index] = COPIES
            if not np.array_equal(cohort.labels[before], cohort.labels[index], equal_nan=True):
                found[before] = COPIES
        for content in hashes:
            first.setdefault(content, index)
    return found


def ready_cohort(
    cohort: Cohort, seen: Sequence[Seen | str], contents: Callable[[Seen], Sequence[str]], where: Path
) -> tuple[Cohort, list[Seen]]:
    """The cases that could be read, each person's scan once, with what was seen of them.

    Args:
        cohort: N cases.
        seen: of each what was seen, or in words why it does not do.
        contents: what was seen to the hashes of its scans' voxels.
        where: the data, for errors.

    Raises:
        DataError: nobody is left.
    """
    cohort = cohort.without({index: why for index, why in enumerate(seen) if isinstance(why, str)})
    fit = [case for case in seen if not isinstance(case, str)]
    twice = copies(cohort, [contents(case) for case in fit])
    cohort, fit = cohort.without(twice), [case for index, case in enumerate(fit) if index not in twice]
    if not fit:
        why = ", ".join(f"{number} with {reason}" for reason, number in cohort.excluded.items())
        raise DataError(f"nobody is left: {why}", where=where, mend="look at the files")
    return cohort, fit


def split_digest(path: Path | None) -> str | None:
    """What tells a split's table from others, None without one."""
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def tested_rows(parts: np.ndarray | None, number: int) -> np.ndarray:
    """(N,) whether each of so many cases is scored: those of the test part, or all where None are parted."""
    return np.ones(number, bool) if parts is None else parts == "test"


def within_split(path: Path, cohort: Cohort) -> Cohort:
    """Without those who are in no part of a split; raises `DataError` as `split_parts` does."""
    outside = np.flatnonzero(split_parts(path, cohort) == "")
    return cohort.without({int(index): f"not in {path.name}" for index in outside})


def split_parts(path: Path, cohort: Cohort) -> np.ndarray:
    """The part of each case: train, val or test; a subject that the table does not know is in none.

    The table may name cases, or the people whose they are.

    Raises:
        DataError: no such columns or parts, or a subject in more than one row.
    """
    table = with_columns(read_text_table(path, "subject"), ["split"])
    if "split" not in table.columns:
        raise DataError("no column 'split'", where=path, mend="name who is in train, val and test")
    known = dict.fromkeys([*cohort.subjects.tolist(), *cohort.people.tolist()])
    matched = match_names(table["subject"], list(known))
    names = table["subject"].map(lambda name: matched.pairs.get(name, bare(name)))
    if twice := sorted(names[names.duplicated()]):
        raise DataError(f"subject {twice[0]} has more than one row", where=path, mend="split by subject")
    for how, pairs in matched.loose.items():
        number = counted(len(pairs), "subject is", "subjects are")
        logger.warning("%s: %s matched %s, e.g. %r to %r", path, number, how, *pairs[0])
    parts = dict(zip(names, table["split"], strict=True))
    found = np.array([parts.get(case.subject) or parts.get(case.whose, "") for case in cohort.cases])
    sides: dict[str, str] = {}
    for case, part in zip(cohort.cases, found, strict=True):
        if case.person and part and sides.setdefault(case.person, str(part)) != part:
            reason = f"{case.person} is in {sides[case.person]} and in {part}"
            raise DataError(reason, where=path, mend="split by person: mdae split --subjects TABLE")
    if not found.astype(bool).any():
        raise DataError(
            f"none of its subjects, e.g. {next(iter(parts), '')!r}, is in the cohort, e.g. {cohort.cases[0].subject!r}",
            where=path,
            mend="write subjects as the data set does, leading zeros too",
        )
    if not {"train", "test"} <= set(found) <= {"train", "val", "test", ""}:
        raise DataError(
            f"its parts of this cohort are {', '.join(sorted(set(found) - {''}))}",
            where=path,
            mend="use train, val and test",
        )
    return found
