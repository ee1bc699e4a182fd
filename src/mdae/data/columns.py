"""What the columns of tables are called: one word under many names, capitals, blanks and marks."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

# What else columns are called, without capitals, blanks and marks.
CALLED = {
    "subject": (
        *("subject", "subjectid", "subjectname", "participantid", "participant", "patientid", "patient"),
        *("patid", "pid", "pseudonym", "person", "personid"),
    ),
    "session": ("session", "sessionid", "ses", "visit", "visitid", "visitcode", "viscode", "timepoint"),
    "scan": ("scan", "scanid", "scanname"),
    "path": ("path", "filename", "filepath", "imagepath"),
}
# What may be people, or may be anything: a join tries it, nothing else does.
PERHAPS = {"subject": ("sub", "id", "case", "caseid", "mrn")}
TEXT = frozenset(
    {name for known in (CALLED, PERHAPS) for names in known.values() for name in names}
    | {"contrast", "split"}
)  # never numbers


def folded(name: str) -> str:
    """A column's name without capitals, blanks and marks."""
    return re.sub(r"[\W_]+", "", name.casefold())


def find_column(table: pd.DataFrame, wanted: str) -> str | None:
    """The column of that name, else the only one that differs in capitals, blanks and marks, else one by another name
    (`Participant ID` for subject); None if there is none."""
    columns = [str(name) for name in table.columns]
    if wanted in columns:
        return wanted
    alike = [name for name in columns if folded(name) == folded(wanted)]
    if len(alike) == 1:
        return alike[0]
    group = next((names for names in CALLED.values() if folded(wanted) in names), ())
    return next((name for known in group for name in columns if folded(name) == known), None)


def columns_called(table: pd.DataFrame, wanted: str) -> list[str]:
    """All columns that may be meant by a word, the likeliest first."""
    first = find_column(table, wanted)
    group = (*CALLED.get(wanted, ()), *PERHAPS.get(wanted, ()))
    others = [str(name) for known in group for name in table.columns if folded(str(name)) == known]
    return list(dict.fromkeys([*([first] if first else []), *others]))


def with_columns(table: pd.DataFrame, wanted: Iterable[str]) -> pd.DataFrame:
    """The table, in which columns that are called otherwise (`find_column`) have the wanted names."""
    found = {find_column(table, name): name for name in wanted if name not in table.columns}
    return table.rename(columns={own: name for own, name in found.items() if own is not None})
