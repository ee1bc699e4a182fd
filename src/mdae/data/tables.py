"""Reading, writing and joining the tables that people bring."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from mdae.data.columns import TEXT, folded, with_columns
from mdae.data.joining import join_labels
from mdae.data.table_files import EMPTY_WORDS, as_numbers, read_cells
from mdae.errors import DataError
from mdae.extras import require
from mdae.files import atomic_write

SUFFIXES = (".csv", ".tsv", ".parquet")
JOIN_COLUMNS = ("scan", "path", "subject", "participant_id")

logger = logging.getLogger(__name__)


def read_table(path: Path) -> pd.DataFrame:
    """A CSV, TSV, Excel or Parquet table; columns of numbers are numbers, names and words stay text.

    Raises:
        DataError: missing, empty, or of another format.
    """
    table = read_cells(path)
    for name in table.columns:
        if folded(name) not in TEXT and not pd.api.types.is_numeric_dtype(table[name]):
            table[name] = as_numbers(table[name])
    for name in table.columns:
        if folded(name) in TEXT and pd.api.types.is_numeric_dtype(table[name]):
            table[name] = table[name].map(_plain).astype(object)
    return table


def _plain(value: object) -> str:
    """A number of a column of names as text; "" for NaN."""
    if pd.isna(value):  # type: ignore[call-overload]
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def read_text_table(path: Path, required: str, *, words: bool = False) -> pd.DataFrame:
    """A table as text throughout, "" where a cell is empty; the required column has the wanted name.

    Args:
        path: the table.
        required: a column that has to be there (`find_column`).
        words: keep `NA`, `None`, `null` and the like as they stand; else they are "".

    Raises:
        DataError: as `read_table`, or the required column is not there.
    """
    table = read_cells(path)
    table = pd.DataFrame({name: table[name].map(_plain).astype(object) for name in table.columns})
    table = with_columns(table, [required])
    if required not in table.columns:
        have = ", ".join(map(str, table.columns))
        raise DataError(f"no column {required!r}; it has {have}", where=path, mend="give a column that name")
    if words:
        return table
    return table.map(lambda cell: "" if cell.casefold() in EMPTY_WORDS else cell)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write Parquet, TSV or CSV by the suffix, atomically; raises `ConfigError` where Parquet is not installed."""
    require_writer(path)
    with atomic_write(path) as temporary:
        if path.suffix.lower() == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False, sep="\t" if path.suffix.lower() == ".tsv" else ",")


def require_writer(path: Path) -> None:
    """Raise `ConfigError` if a table of this suffix cannot be written: before hours of work, not after them."""
    if path.suffix.lower() == ".parquet":
        require("pyarrow", "writes Parquet tables", where=path)


def attach_labels(features: pd.DataFrame, labels: pd.DataFrame, label: str, where: Path) -> pd.DataFrame:
    """The feature rows that have a label, with the columns `label` and, if there, `split` of the label table.

    See `mdae.data.joining.join_labels`, which this is; what it has to tell is logged.

    Raises:
        DataError: no such column or one that the features have as well, or no row in common.
    """
    joined = join_labels(features, labels, label, where)
    for note in joined.notes:
        logger.warning("%s: %s", where, note)
    return joined.rows
