"""A page in one file: headings, prose, pictures and tables, nothing fetched from anywhere.

`page.html` is its template, which escapes whatever stands in it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure

from mdae.figures import to_png
from mdae.files import atomic_write

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


class Page:
    """A page that grows from top to bottom.

    Args:
        title: its heading.
        lead: one sentence below.
    """

    def __init__(self, title: str, lead: str) -> None:
        self.title, self.lead = title, lead
        self.parts: list[dict[str, Any]] = []

    def section(self, title: str, text: str) -> None:
        """A heading and a paragraph."""
        self.parts.append({"kind": "section", "title": title, "text": text})

    def figure(self, figure: Figure, caption: str, *, dpi: int = 110) -> None:
        """A picture with what it shows."""
        png = base64.b64encode(to_png(figure, dpi=dpi)).decode()
        self.parts.append({"kind": "figure", "caption": caption, "png": png})

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], *, strong: Sequence[int] = ()
    ) -> None:
        """A table; the rows numbered in `strong` stand out."""
        self.parts.append({"kind": "table", "header": header, "rows": rows, "strong": strong})

    def points(self, lines: Sequence[str]) -> None:
        """Sentences, one below the other."""
        self.parts.append({"kind": "points", "lines": lines})

    def note(self, text: str) -> None:
        """A paragraph in small print."""
        self.parts.append({"kind": "note", "text": text})

    def commands(self, text: str) -> None:
        """Commands to copy."""
        self.parts.append({"kind": "commands", "text": text})

    def save(self, path: Path) -> None:
        """Write the page, atomically."""
        text = TEMPLATES.get_template("page.html").render(title=self.title, lead=self.lead, parts=self.parts)
        with atomic_write(path) as temporary:
            temporary.write_text(text + "\n")
