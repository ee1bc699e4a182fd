"""Names as text that any file, table and terminal takes; a file system may hold names that are none."""

from __future__ import annotations

import os
import unicodedata


def printable(name: str | os.PathLike[str]) -> str:
    """A path as text, bytes that are no UTF-8 written out: `sub-\\\\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def legible(name: str) -> str:
    """A name as people read it: in Latin-1 where it is no UTF-8, accents composed, so that equal names are equal."""
    raw = os.fsencode(name)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return unicodedata.normalize("NFC", text)


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 scan`, `2 scans`; the plural where it does not end in s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
