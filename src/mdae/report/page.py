"""A page in one file: headings, prose, pictures and tables, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mdae.figures import to_png
from mdae.files import atomic_write

STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --dim: #5a6b7b; --line: #d8e0e7; --ground: #fff; --mark: #0b6e8f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --dim: #9fb0bf; --line: #2d3a46; --ground: #10171e; --mark: #5cc3e4; }
}
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--ground);
       max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin-bottom: .3rem; } h2 { margin-top: 2.6rem; font-size: 1.3rem; }
.lead { color: var(--dim); margin-top: 0; } figure { margin: 1rem 0; } img { max-width: 100%; border-radius: 6px; }
figcaption, small { color: var(--dim); font-size: .9rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .4rem .9rem .4rem 0; text-align: left; border-bottom: 1px solid var(--line); }
th { color: var(--dim); font-weight: 600; } tr.strong td { color: var(--mark); font-weight: 600; }
pre { background: color-mix(in srgb, var(--ink) 6%, transparent); padding: .8rem 1rem; border-radius: 6px;
      overflow-x: auto; }
"""


class Page:
    """A page that grows from top to bottom.

    Args:
        title: its heading.
        lead: one sentence below.
    """

    def __init__(self, title: str, lead: str) -> None:
        self.title = title
        self.parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="lead">{html.escape(lead)}</p>']

    def section(self, title: str, text: str) -> None:
        """A heading and a paragraph."""
        self.parts.append(f"<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>")

    def figure(self, figure: Figure, caption: str, *, dpi: int = 110) -> None:
        """A picture with what it shows."""
        data = base64.b64encode(to_png(figure, dpi=dpi)).decode()
        shown = html.escape(caption)
        self.parts.append(
            f'<figure><img alt="{shown}" src="data:image/png;base64,{data}">'
            f"<figcaption>{shown}</figcaption></figure>"
        )

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], *, strong: Sequence[int] = ()
    ) -> None:
        """A table; the rows numbered in `strong` stand out."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join(
            f"<tr{' class=strong' if index in strong else ''}>"
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
            + "</tr>"
            for index, row in enumerate(rows)
        )
        self.parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def points(self, items: Sequence[str]) -> None:
        """Sentences, one below the other."""
        self.parts.append("<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>")

    def note(self, text: str) -> None:
        """A paragraph in small print."""
        self.parts.append(f"<p><small>{html.escape(text)}</small></p>")

    def commands(self, text: str) -> None:
        """Commands to copy."""
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def save(self, path: Path) -> None:
        """Write the page, atomically."""
        head = (
            f'<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(self.title)}</title><style>{STYLE}</style>"
        )
        with atomic_write(path) as temporary:
            temporary.write_text(
                f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(self.parts)}</body></html>\n'
            )
