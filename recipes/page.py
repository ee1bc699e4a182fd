"""The tables of a page, written from `recipes/results/`: nobody copies a figure by hand.

Between `<!-- table: NAME -->` and `<!-- end -->` of `docs/does-it-help.md` stands what this makes of its CSV;
`python -m recipes.collect` puts it there, or `python -m recipes.few_labels_page`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "does-it-help.md"
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
CONTRASTS = ("T2w", "FLAIR")
PLACES = {"T2w": "T2w, seen", "FLAIR": "FLAIR, never seen", "all": "both"}  # seen in pre-training, that is
SURE = 0.05  # Holm's p below which a difference is set in bold


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table; the first column is words, the others figures."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *rows))


def differences(summary: pd.DataFrame, protocol: str) -> str:
    """Each variant less the baseline, contrast by contrast, below the baseline's own figures; the best stand first."""
    here = summary[summary.protocol == protocol]
    baseline = here.loc[here.difference.isna(), "variant"].iloc[0]
    variants = here[here.modality == "all"].sort_values("difference", ascending=False).variant
    cells = {(row.variant, row.modality): row for row in here.itertuples()}
    own = [f"**{baseline}**: {here.metric.iloc[0]}"]
    own += [f"{cells[baseline, name].value:.3f}" for name in PLACES]
    rows = [
        [variant, *(_difference(cells[variant, name]) for name in PLACES)]
        for variant in variants
        if variant != baseline
    ]
    return markdown([f"less {baseline}", *PLACES.values()], [own, *rows])


def _difference(row: object) -> str:
    low, value, high = (getattr(row, f"difference{end}") for end in ("_low", "", "_high"))
    return signed(value, low, high, sure=getattr(row, "p_holm", 1.0) < SURE)


def signed(value: float, low: float, high: float, *, sure: bool = False) -> str:
    """A difference with its interval, in bold if it is sure."""
    return f"{bold(f'{value:+.3f}', sure)} [{low:+.3f}, {high:+.3f}]"


def bold(text: str, sure: bool) -> str:
    """A text, in bold if it is sure."""
    return f"**{text}**" if sure else text


def real(table: pd.DataFrame) -> str:
    """Average precision less that of the untrained network, by contrast; the intervals are over seeds alone."""
    contrasts = list(table.modality.unique())
    cells = {(row.variant, row.modality): row for row in table.itertuples()}
    order = table[table.modality == "all"].sort_values("gain", ascending=False).variant
    own = [f"{cells['untrained', name].average_precision:.3f}" for name in contrasts]
    rows = [["**untrained**: average precision", *own]]
    for variant in order[order != "untrained"]:
        found = [cells[variant, name] for name in contrasts]
        rows.append([variant, *(signed(own.gain, own.low, own.high) for own in found)])
    return markdown(["less untrained", *("together" if name == "all" else name for name in contrasts)], rows)


def learning(losses: pd.DataFrame, about: dict[str, dict[str, float]]) -> str:
    """What is left of each variant's own loss, and what a step takes."""
    rows = []
    for row in losses.itertuples():
        seconds = about["seconds_a_step"].get(str(row.variant))
        share = f"{row.share:.2f} ({row.lowest:.2f} to {row.highest:.2f})"
        rows.append([str(row.variant), share, "" if seconds is None else f"{seconds:.2f} s"])
    return markdown(["objective", "own loss, last fifth by first", "a step"], rows)


def tables(results: Path) -> dict[str, str]:
    """Every table by name."""
    about = json.loads((results / "about.json").read_text())
    of: dict[str, Callable[[pd.DataFrame], str]] = {"real": real, "losses": lambda own: learning(own, about)}
    found = {}
    for path in sorted(results.glob("*.csv")):
        table = pd.read_csv(path)
        if path.stem in of:
            found[path.stem] = of[path.stem](table)
        else:
            found |= {
                f"{path.stem}-{protocol}": differences(table, protocol)
                for protocol in table.protocol.unique()
            }
    return found


def filled(page: str, found: Mapping[str, str]) -> str:
    """The page with tables in their places; places of other tables stay as they are."""
    return PLACE.sub(lambda match: match[1] + found.get(match[2], match[3]) + match[4], page)
