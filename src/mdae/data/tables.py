"""Reading and joining the tables that people bring."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mdae.errors import DataError
from mdae.files import atomic_write

SUFFIXES = (".csv", ".tsv", ".parquet")
JOIN_COLUMNS = ("scan", "path", "subject", "participant_id")


def read_table(path: Path) -> pd.DataFrame:
    """A CSV, TSV or Parquet table; names and labels stay text.

    Raises:
        DataError: missing, empty, or of another format.
    """
    path = Path(path)
    return _read(path, dict.fromkeys((*JOIN_COLUMNS, "session"), str))


def read_text_table(path: Path, required: str) -> pd.DataFrame:
    """A table as text throughout, "" where a cell is empty.

    Raises:
        DataError: as `read_table`, or the required column is not there.
    """
    table = _read(path, str)
    if required not in table.columns:
        have = ", ".join(map(str, table.columns))
        raise DataError(f"no column {required!r}; it has {have}", where=path, mend="give a column that name")
    return table.astype(object).where(table.notna(), "").astype(str)


def _read(path: Path, dtype: type[str] | dict[str, type[str]]) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=dtype)
    except FileNotFoundError as error:
        raise DataError("no such table", where=path, mend="check the path") from error
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(
            f"not a table that can be read ({error})", where=path, mend="give .csv, .tsv or .parquet"
        ) from error


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write Parquet or CSV by the suffix, atomically."""
    with atomic_write(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False)


def attach_labels(features: pd.DataFrame, labels: pd.DataFrame, label: str, where: Path) -> pd.DataFrame:
    """The feature rows that have a label, with the columns `label` and, if there, `split` of the label table.

    The tables are joined by the first of scan, path, subject or participant_id that the labels have; BIDS's
    `sub-` counts for nothing.

    Raises:
        DataError: no such column or one that the features have as well, doubly labelled scans, or no row in common.
    """
    columns = ", ".join(map(str, labels.columns))
    if label not in labels.columns:
        raise DataError(
            f"no column {label!r}; it has {columns}", where=where, mend="choose --label among them"
        )
    kept = [label, *(["split"] if "split" in labels.columns and label != "split" else [])]
    if twofold := [name for name in kept if name in features.columns]:
        raise DataError(
            f"column {twofold[0]!r} is in the features table as well",
            where=where,
            mend="rename it in the labels",
        )
    by = next((name for name in JOIN_COLUMNS if name in labels.columns), None)
    if by is None:
        raise DataError(
            f"no column to join by; it has {columns}",
            where=where,
            mend=f"add one of {', '.join(JOIN_COLUMNS)}",
        )
    own = features["subject" if by == "participant_id" else by].map(_bare)
    theirs = labels.assign(_key=labels[by].map(_bare)).dropna(subset=[label])
    if theirs["_key"].duplicated().any():
        twice = theirs["_key"][theirs["_key"].duplicated()].iloc[0]
        raise DataError(f"{by} {twice} has more than one row", where=where, mend="keep one row for each")
    joined = (
        features.assign(_key=own).merge(theirs[["_key", *kept]], on="_key", how="inner").drop(columns="_key")
    )
    if joined.empty:
        raise DataError(
            f"no {by} in common with the features, e.g. {theirs['_key'].iloc[0]!r} and {own.iloc[0]!r}"
            if len(theirs) and len(own)
            else "no labelled row",
            where=where,
            mend="check the names on both sides",
        )
    return joined


def _bare(name: object) -> str:
    return str(name).removeprefix("sub-")
