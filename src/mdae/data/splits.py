"""`mdae split`: who is for training, validation and testing; by subject, stratified by labels, kept in the store.

The table has a row a subject (`subject`, `split`, and the label if there is one), so it is itself a table of labels
that `mdae probe` takes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mdae.data.catalogue import ScanEntry
from mdae.data.store import Store
from mdae.data.subject_table import with_subjects
from mdae.data.subjects import visits_of, warn_of_visits
from mdae.errors import ConfigError, DataError
from mdae.files import atomic_write
from mdae.seeding import numpy_generator
from mdae.text import counted

FOLDER = "splits"
PARTS = ("train", "val", "test")
NUM_BINS = 5  # strata of a label of many numbers
MANY = 10  # different numbers, from which a label is binned


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Split the subjects of a store for training, validation and testing, and keep the split with the store."""

    store: Positional[Annotated[Path, arg(metavar="STORE")]]
    """The store that `mdae prepare` wrote."""
    name: str = "default"
    """The split's name: STORE/splits/NAME.csv, and `mdae pretrain --split NAME`."""
    val: float = 0.1
    """Share of subjects for validation."""
    test: float = 0.0
    """Share of subjects for testing: pre-training leaves them out."""
    labels: Path | None = None
    """Table with one row a subject (`subject`, or BIDS's participant_id), participants.tsv say, to stratify by."""
    label: str = ""
    """Its column; numbers of many values are cut into fifths."""
    subjects: Path | None = None
    """Table with columns `scan` and `subject` of who is one person, where the store's subjects are cases or visits."""
    seed: int = 0
    """Decides who."""

    def __post_init__(self) -> None:
        if min(self.val, self.test) < 0 or self.val + self.test >= 1:
            raise ConfigError(
                f"shares of {self.val} and {self.test}", mend="give shares that leave some to train on"
            )
        if self.label in ("subject", "split"):
            raise ConfigError(f"a label named {self.label!r}, as a split's own column", mend="rename it")
        if (self.labels is None) != (not self.label):
            raise ConfigError("one of --labels and --label alone", mend="give the table and its column")
        if not re.fullmatch(r"[A-Za-z0-9._+-]+", self.name) or self.name.startswith("."):
            raise ConfigError(f"a split named {self.name!r}", mend="use letters, digits and ._+-")


def split(config: SplitConfig) -> Path:
    """Make a split and write it; one that is there stays as it is.

    Raises:
        DataError: no such store or labels, a split of that name, or too few subjects.
    """
    path = split_path(config.store, config.name)
    if path.exists():
        raise DataError(
            "a split of that name is there, and results may hang on it",
            where=path,
            mend="give another --name",
        )
    store = Store.open(config.store)
    subjects = sorted({scan.subject for scan in store.scans})
    labels = _labels(config, subjects) if config.labels else {}
    people = _people(store, config.subjects)
    if config.subjects is None:
        warn_of_visits(visits_of(subjects), config.store)
    firsts = {people[name]: name for name in reversed(subjects)}  # one of each person, whose label counts
    strata = stratify(sorted(firsts), {who: labels[name] for who, name in firsts.items() if name in labels})
    drawn = draw_parts(strata, val=config.val, test=config.test, seed=config.seed)
    parts = {name: drawn[people[name]] for name in subjects}
    wanted = [part for part, share in zip(PARTS, (1, config.val, config.test), strict=True) if share]
    if missing := [part for part in wanted if part not in parts.values()]:
        one = "; tell people apart: mdae prepare --subject-from" if len(firsts) == 1 else ""
        raise DataError(
            f"{counted(len(firsts), 'subject is', 'subjects are')} too few for a {missing[0]} part",
            where=config.store,
            mend=f"give a larger share{one}",
        )
    write_parts(path, parts, labels, config.label)
    return path


def _people(store: Store, table: Path | None) -> dict[str, str]:
    """Who each of a store's subjects is, of whom several may be one person.

    Raises:
        DataError: a subject whose scans are of several people.
    """
    if table is None:
        return {scan.subject: scan.subject for scan in store.scans}
    entries = [ScanEntry(s.scan_id, s.subject, s.session, s.contrast, Path(s.source)) for s in store.scans]
    people: dict[str, str] = {}
    for scan, entry in zip(store.scans, with_subjects(entries, table, store.path), strict=True):
        if people.setdefault(scan.subject, entry.subject) != entry.subject:
            raise DataError(
                f"the store's subject {scan.subject} is {people[scan.subject]} and {entry.subject}",
                where=table,
                mend="prepare again with --subjects TABLE, which takes what is there",
            )
    return people


def split_path(store: Path, name: str) -> Path:
    """Where a split lies."""
    return Path(store) / FOLDER / f"{name}.csv"


def read_split(store: Path, name: str) -> dict[str, str]:
    """The part of each subject: train, val or test.

    Raises:
        DataError: no such split, or not one.
    """
    path = split_path(store, name)
    try:
        with path.open(newline="") as file:
            parts = {row["subject"]: row["split"] for row in csv.DictReader(file)}
    except FileNotFoundError as error:
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.csv"))) or "none"
        raise DataError(
            f"no such split; there are {there}", where=path, mend="make it: mdae split"
        ) from error
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise DataError(f"not a split ({error})", where=path, mend="make another: mdae split") from error
    if odd := sorted(set(map(str, parts.values())) - set(PARTS)):
        raise DataError(f"a part named {odd[0]!r}", where=path, mend="use train, val and test")
    return parts


def stale_splits(store: Store) -> Iterator[str]:
    """A line for each split that names subjects whom the store no longer holds."""
    held = {scan.subject for scan in store.scans}
    for path in sorted((store.path / FOLDER).glob("*.csv")):
        try:
            named = read_split(store.path, path.stem)
        except DataError:  # whoever uses it is told
            continue
        if gone := sorted(named.keys() - held):
            number = counted(len(gone), "subject")
            yield f"split {path} names {number} not in the store, e.g. {gone[0]}: take the rows out"


def write_parts(
    path: Path, parts: Mapping[str, str], labels: Mapping[str, object] | None = None, label: str = ""
) -> None:
    """Write who is in which part, with the label beside it if there is one."""
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "split", *([label] if label else [])])
        for name in sorted(parts):
            writer.writerow([name, parts[name], *([(labels or {}).get(name, "")] if label else [])])


def _labels(config: SplitConfig, subjects: Sequence[str]) -> dict[str, object]:
    """The label of those subjects that have one."""
    import pandas as pd  # here: only labels need it

    from mdae.data.tables import attach_labels, read_table

    assert config.labels is not None
    people = pd.DataFrame({"subject": subjects})
    given = read_table(config.labels).drop(columns=["scan", "path", "split"], errors="ignore")
    keys = [name for name in ("subject", "participant_id", config.label) if name in given.columns]
    table = attach_labels(people, given.drop_duplicates(keys or None), config.label, config.labels)
    return dict(zip(table["subject"], table[config.label], strict=True))


def stratify(subjects: Sequence[str], labels: Mapping[str, object]) -> dict[str, list[str]]:
    """Subjects by stratum: one a class, a fifth of the range of a number of many values, or unlabelled."""
    numbers = [value for value in labels.values() if isinstance(value, int | float)]
    cuts: list[float] = []
    if len(numbers) == len(labels) and len(set(numbers)) > MANY:
        ordered = sorted(numbers)
        cuts = [ordered[len(ordered) * part // NUM_BINS] for part in range(1, NUM_BINS)]
    strata: dict[str, list[str]] = {}
    for name in sorted(subjects):
        value = labels.get(name)
        if value is None:
            stratum = "unlabelled"
        elif cuts and isinstance(value, int | float):
            stratum = f"bin {sum(value >= cut for cut in cuts)}"
        else:
            stratum = f"class {value}"
        strata.setdefault(stratum, []).append(name)
    return strata


def draw_parts(strata: Mapping[str, list[str]], *, val: float, test: float, seed: int) -> dict[str, str]:
    """The part of each subject; each stratum is cut in the same shares, what rounding owes goes to the next.

    Args:
        strata: subjects by stratum.
        val, test: shares; the rest is for training.
        seed: decides who.
    """
    parts: dict[str, str] = {}
    done, seen = {"val": 0, "test": 0}, 0
    for number, stratum in enumerate(sorted(strata)):
        names = strata[stratum]
        order = [names[i] for i in numpy_generator(seed, "stratum", number).permutation(len(names))]
        seen += len(names)
        for part, share in (("test", test), ("val", val)):
            count = min(len(order), round(share * seen) - done[part])
            parts |= dict.fromkeys(order[:count], part)
            done[part], order = done[part] + count, order[count:]
        parts |= dict.fromkeys(order, "train")
    return parts
