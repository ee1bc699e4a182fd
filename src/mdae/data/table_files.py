"""Table files as people save them, to cells of text: encodings, separators, spreadsheets, and what is no table at all.

Nothing is taken for a missing value here but a blank cell: `None`, `NA` and `null` are words that somebody wrote.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import logging
import re
import zlib
from collections import Counter
from pathlib import Path

import pandas as pd

from mdae.errors import DataError, EmptyTableError
from mdae.extras import require

SEPARATORS = (",", ";", "\t", "|")
SNIFFED = 50  # rows that a separator is told by
INVISIBLE = (
    "\ufeff\u200b\u200e\u200f"  # byte order marks and marks of direction, which spreadsheets leave behind
)
SHEETS, PARQUET, PLAIN = (".xlsx", ".xlsm"), (".parquet", ".pq"), (".csv", ".tsv", ".txt")
MEND = "give .csv, .tsv, .parquet or .xlsx"
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
# What stands for an empty cell in a table that names files and people.
EMPTY_WORDS = ("na", "n/a", "nan", "none", "null", "<na>", "#n/a")
# Words for "no value" beside numbers; beside other words they are values like any other.
MISSING_WORDS = (*EMPTY_WORDS, "missing", "unknown", "not available", "?", ".")
COMMA_NUMBER = re.compile(r"[+-]?(\d+(,\d*)?|,\d+)([eE][+-]?\d+)?")

logger = logging.getLogger(__name__)


def read_cells(path: Path) -> pd.DataFrame:
    """A table with cells of text, stripped, "" where they are blank; Parquet keeps the types of its columns.

    Raises:
        DataError: no such file, an empty one, not a table, or a column's name that stands there twice.
    """
    path = Path(path)
    try:
        table = _by_kind(path, path.read_bytes())
    except FileNotFoundError as error:
        raise DataError("no such table", where=path, mend="check the path") from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", where=path, mend=MEND) from error
    twice = [name for name, number in Counter(table.columns).items() if number > 1 and name]
    if twice:
        raise DataError(f"column {twice[0]!r} is there twice", where=path, mend="rename one of the two")
    return table


def _by_kind(path: Path, content: bytes) -> pd.DataFrame:
    """By what the file is; its name decides only where the content does not."""
    if not content.strip():
        raise DataError("the file is empty", where=path, mend="save the table again")
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"a damaged gzip file ({error})", where=path, mend="save it again") from error
    if content[:4] == b"PAR1" or path.suffix in PARQUET:
        return _parquet(path, content)
    if content[:4] == b"PK\x03\x04":
        return _workbook(path, content)
    if content[:4] == b"\xd0\xcf\x11\xe0":
        raise DataError("an Excel workbook of the old kind", where=path, mend="save it as .xlsx or .csv")
    rows, mark = _rows(path, decode(path, content))
    table = from_rows(path, rows)
    return _with_points(table) if mark in ";\t" else table


def decode(path: Path, content: bytes) -> str:
    """Bytes of a text file as text: UTF-8 and UTF-16 with or without their mark, else Windows' Latin-1.

    Raises:
        DataError: no text.
    """
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if content.startswith(mark):
            return _decoded(path, content, encoding)
    if b"\0" in content:  # every other byte of plain text in UTF-16
        first = content[:2000]
        for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if first[start::2].count(0) > 0.4 * len(first) > 0 and first[1 - start :: 2].count(0) == 0:
                return _decoded(path, content, encoding)
        raise DataError("no text but binary data", where=path, mend=MEND)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
        if "\N{REPLACEMENT CHARACTER}" in text:  # bytes that Windows does not use
            text = content.decode("latin-1")
        shown = next((word for word in re.split(r"[\s,;|\"]+", text) if not word.isascii()), "")
        logger.warning(
            "%s: no UTF-8, read as Latin-1 (e.g. %r); save it as UTF-8 if that is wrong", path, shown
        )
        return text


def _decoded(path: Path, content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"damaged {encoding.upper()} text", where=path, mend="save it as UTF-8") from error


def _rows(path: Path, text: str) -> tuple[list[list[str]], str]:
    """The cells of each row, by the separator that fits, and the separator."""
    text = text.lstrip(INVISIBLE)
    if declared := re.match(r'"?sep=(.)"?[ \t]*\r?\n', text, re.IGNORECASE):  # as Excel writes it
        text, mark = text[declared.end() :], declared[1]
    else:
        own = "\t" if path.suffix.lower() == ".tsv" else ","
        order = [own, *(other for other in SEPARATORS if other != own)]
        mark = max(order, key=lambda other: _fit(text, other))
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)), mark
    except csv.Error as error:
        raise DataError(f"not a table that can be read ({error})", where=path, mend=MEND) from error


def _fit(text: str, mark: str) -> tuple[float, int, int]:
    """How well a separator cuts the first rows: the share with as many cells as the header, and their number; of two
    that do as well, the one after which fewer blanks stand, as they do in prose."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    try:
        first = [row for row, _ in zip((row for row in rows if any(row)), range(SNIFFED), strict=False)]
    except csv.Error:
        return 0.0, 0, 0
    widths = [len(row) for row in first]
    if not widths or widths[0] < 2:
        return 0.0, 1, 0
    alike = sum(width == widths[0] for width in widths) / len(widths)
    return alike, widths[0], -sum(cell[:1] == " " for cell in first[0])


def _with_points(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of numbers with decimal commas with points instead, where the comma separates no columns."""
    for name in table.columns:
        cells = [cell for cell in table[name] if cell and cell.casefold() not in MISSING_WORDS]
        if any("," in cell for cell in cells) and all(
            COMMA_NUMBER.fullmatch(cell) or NUMBER.fullmatch(cell) for cell in cells
        ):
            table[name] = table[name].map(lambda cell: cell.replace(",", ".")).astype(object)
    return table


def from_rows(path: Path, rows: list[list[str]]) -> pd.DataFrame:
    """The header and its rows as a table; blank rows go, and short ones are filled up.

    Raises:
        DataError: no header, no row, or a row with more cells than the header.
    """
    clean = [(number, [_clean(cell) for cell in row]) for number, row in enumerate(rows, 1)]
    clean = [(number, row) for number, row in clean if any(row)]
    if not clean:
        raise DataError("the file is empty", where=path, mend="save the table again")
    header = clean[0][1]
    while header and not header[-1]:
        header.pop()
    if len(clean) == 1:
        raise EmptyTableError(
            f"a header ({', '.join(header)}) and no row", where=path, mend="save the table again"
        )
    full = []
    for number, row in clean[1:]:
        if any(row[len(header) :]):
            raise DataError(
                f"row {number} has {len(row)} cells, and the header {len(header)}",
                where=path,
                mend="put cells that hold the separator in quotes",
            )
        full.append((row + [""] * len(header))[: len(header)])
    return pd.DataFrame(full, columns=header, dtype=object)


def _clean(cell: str) -> str:
    return cell.strip().strip(INVISIBLE).strip()


def _workbook(path: Path, content: bytes) -> pd.DataFrame:
    """The first sheet of an Excel workbook."""
    require("openpyxl", "reads Excel workbooks", DataError, where=path)
    import openpyxl  # here: an extra

    try:
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        names = [sheet.title for sheet in book.worksheets]
        rows = [[_of_sheet(cell) for cell in row] for row in book.worksheets[0].iter_rows(values_only=True)]
    except Exception as error:  # a zip of anything else, or a damaged one: openpyxl raises what it meets
        raise DataError("a zip file that is no Excel workbook", where=path, mend=MEND) from error
    if len(names) > 1:
        logger.warning("%s: sheet %r is read; there are %s too", path, names[0], ", ".join(names[1:]))
    return from_rows(path, rows)


def _of_sheet(cell: object) -> str:
    """A cell as it is shown: 7 rather than 7.0, a day without its midnight."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).removesuffix(" 00:00:00")


def _parquet(path: Path, content: bytes) -> pd.DataFrame:
    require("pyarrow", "reads Parquet tables", DataError, where=path)
    try:
        table = pd.read_parquet(io.BytesIO(content))
    except Exception as error:  # pyarrow raises several kinds, none of them an OSError
        raise DataError("not a Parquet table", where=path, mend=MEND) from error
    if any(name is not None for name in table.index.names):
        table = table.reset_index()
    table.columns = [_clean(str(name)) for name in table.columns]
    for name in table.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]]:
        filled = table[name].astype(object).where(table[name].notna(), "")
        table[name] = filled.map(lambda cell: _clean(str(cell))).astype(object)
    for name in table.columns[[pd.api.types.is_bool_dtype(kind) for kind in table.dtypes]]:
        table[name] = table[name].map(str).astype(object)
    return table


def as_numbers(cells: pd.Series) -> pd.Series:
    """A column of text as numbers, NaN where it is blank; as it is where a cell is none."""
    filled = cells[cells != ""]
    try:
        numbers = pd.to_numeric(filled)
    except (ValueError, TypeError):
        return cells
    if filled.empty:
        return cells
    return numbers if len(filled) == len(cells) else numbers.reindex(cells.index)
