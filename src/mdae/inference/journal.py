"""What is done is noted line by line, so that a command that was stopped goes on from there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from mdae.data.catalogue import ScanEntry
from mdae.errors import DataError


class Journal:
    """A file of JSON lines: first what made them, then a line for each that is done. A torn last line counts as none.

    Args:
        path: of the file.
        maker: what made the lines; those of another maker are forgotten.
    """

    def __init__(self, path: Path, maker: str) -> None:
        self.path, self.maker = path, maker
        self.done = self._read()
        self.file: TextIO | None = None

    def _read(self) -> dict[str, Any]:
        try:
            head, *lines = [json.loads(line) for line in self.path.read_text().split("\n")[:-1]]
        except (OSError, ValueError):
            return {}
        return {line["of"]: line["row"] for line in lines} if head == {"maker": self.maker} else {}

    def __enter__(self) -> Journal:
        """Begin anew with what is known, so that no torn line stays."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("w")
        except OSError as error:
            raise DataError(f"cannot be written ({error.strerror})", where=self.path) from error
        self._line({"maker": self.maker})
        for of, row in self.done.items():
            self._line({"of": of, "row": row})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.file is not None:
            self.file.close()

    def note(self, of: str, row: Any) -> None:
        """One is done, and on disk."""
        self.done[of] = row
        self._line({"of": of, "row": row})

    def _line(self, content: Any) -> None:
        assert self.file is not None
        self.file.write(json.dumps(content) + "\n")
        self.file.flush()


def stamp_of(entries: Sequence[ScanEntry]) -> str:
    """What tells scans as they are now from any others, or from themselves once they change; raises `OSError`."""
    return json.dumps([[str(entry.path.absolute()), *entry.stamp()] for entry in entries])
