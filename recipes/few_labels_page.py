"""The picture and the tables of `recipes.few_labels`, from its table of rows.

    python -m recipes.few_labels_page

It fills `docs/does-it-help.md`, as `recipes.collect` does for the older field.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mdae.evaluation.statistics.curve import curve_difference, curve_estimate
from mdae.evaluation.statistics.intervals import Estimate
from mdae.evaluation.statistics.tests import holm
from mdae.figures import curve_panel, save_png
from recipes.few_labels import BASELINES, KEY, RESULTS, VERSION, read_rows
from recipes.page import PAGE, SURE, filled, markdown, signed

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "few-labels.png"
ALL = 100  # labelled train subjects
STEPS = 300  # of pre-training, in the main comparison
SIZES = ("1", "4", "16", "all")  # of the tables
NAMES = {
    "position": "place and intensities",
    "mdae": "MDAE",
    "mae": "MAE",
    "dsm": "DSM",
    "mdae-masked": "MDAE, masked loss",
    "diffmae": "DiffMAE",
}
PANELS = {
    "alone": "frozen maps alone",
    "beside": "frozen maps beside place and intensities",
    "fine-tuned": "fine-tuned",
}
# Okabe and Ito's colours, told apart by colour-blind readers too
LINES = {
    "mdae": ("#D55E00", "-"),
    "mae": ("#0072B2", "-"),
    "dsm": ("#009E73", "-"),
    "untrained": ("#000000", "--"),
    "position": ("#999999", ":"),
}


def number(labelled: str) -> int:
    """Of labelled subjects."""
    return ALL if labelled == "all" else int(labelled)


class Study:
    """The finished rows.

    Args:
        rows: as `recipes.few_labels` keeps them.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows = rows = rows[rows.version == VERSION]
        self.subjects = [name for name in rows.columns if name not in (*KEY, "dice")]
        self.sizes = sorted(rows.labelled.unique(), key=number)

    def sizes_of(self, readout: str) -> list[str]:
        """Numbers of labelled subjects that an encoder was read out after."""
        here = self.rows[(self.rows.readout == readout) & ~self.rows.encoder.isin(BASELINES)]
        return [size for size in self.sizes if (here.labelled == size).any()]

    def common(self, readout: str) -> list[str]:
        """Those of every encoder of the picture that has this readout: a line through other numbers would mislead."""
        shown = [name for name in LINES if name in self.encoders(readout)]
        return [
            size
            for size in self.sizes_of(readout)
            if all(self.values(name, readout, size) is not None for name in shown)
        ]

    def encoders(self, readout: str, steps: int = STEPS) -> list[str]:
        """Those with this readout, baselines first, then the untrained network."""
        mine = self._of(readout, steps)
        order = [*BASELINES, "untrained"]
        found = mine.encoder.unique()
        return [name for name in order if name in found] + [name for name in found if name not in order]

    def values(self, encoder: str, readout: str, labelled: str, steps: int = STEPS) -> np.ndarray | None:
        """Dice (seeds, draws, N) of the seeds that have every draw; None if none has."""
        own = self._of(readout, steps)
        own = own[(own.encoder == encoder) & (own.labelled == labelled)]
        tables = [part.sort_values("draw")[self.subjects].to_numpy() for _, part in own.groupby("seed")]
        most = max((len(one) for one in tables), default=0)
        return np.stack([one for one in tables if len(one) == most]) if tables else None

    def _of(self, readout: str, steps: int) -> pd.DataFrame:
        rows = self.rows
        network = (rows.readout == readout) & rows.steps.isin((0, steps)) & ~rows.encoder.isin(BASELINES)
        return rows[network | rows.encoder.isin(BASELINES)]

    def pairs(self, encoder: str, other: str, readout: str, labelled: str, steps: int = STEPS) -> int:
        """How many seeds two encoders can be compared at."""
        found = [self.values(name, readout, labelled, steps) for name in (encoder, other)]
        seeds = [0 if own is None else len(own) for own in found]
        return seeds[0] if other in BASELINES else min(seeds)

    def difference(
        self, encoder: str, other: str, readout: str, labelled: str, steps: int = STEPS
    ) -> tuple[Estimate, float] | None:
        """Paired by seed, draw and subject, as far as both have them; all seeds are paired with a baseline's one."""
        one, two = (self.values(name, readout, labelled, steps) for name in (encoder, other))
        if one is None or two is None:
            return None
        seeds = self.pairs(encoder, other, readout, labelled, steps)
        draws = min(one.shape[1], two.shape[1])
        two = np.broadcast_to(two[:, :draws], (max(seeds, len(two)), draws, two.shape[2]))
        return curve_difference(one[:seeds, :draws], two[:seeds])


def dice_table(study: Study, readout: str, sizes: Sequence[str], steps: int = STEPS) -> str:
    """Mean Dice with intervals, an encoder a row, a number of labelled subjects a column."""
    rows = []
    for encoder in study.encoders(readout, steps):
        found = [study.values(encoder, readout, size, steps) for size in sizes]
        seeds = max((len(one) for one in found if one is not None), default=0)
        cells = ["" if one is None else str(curve_estimate(one)) for one in found]
        rows.append([NAMES.get(encoder, encoder), "" if encoder in BASELINES else str(seeds), *cells])
    return markdown(["Dice [95 %]", "seeds", *map(_labelled, sizes)], rows)


def gain_table(study: Study, readout: str, other: str, sizes: Sequence[str], steps: int = STEPS) -> str:
    """Each encoder less another, paired; bold where Holm's p over the table is below 0.05."""
    names = [name for name in study.encoders(readout, steps) if name != other and name not in BASELINES]
    found = {
        (name, size): study.difference(name, other, readout, size, steps) for name in names for size in sizes
    }
    known = {place: one for place, one in found.items() if one is not None}
    sure = dict(zip(known, holm([p for _, p in known.values()]), strict=True))
    rows = []
    for name in names:
        cells = []
        for size in sizes:
            if (one := known.get((name, size))) is None:
                cells.append("")
                continue
            several = study.pairs(name, other, readout, size, steps) > 1  # one seed tells nothing of others
            gain, told = one[0], several and sure[name, size] < SURE
            cells.append(signed(gain.value, gain.low, gain.high, sure=told))
        rows.append([NAMES.get(name, name), str(study.pairs(name, other, readout, sizes[0], steps)), *cells])
    return markdown([f"less {NAMES.get(other, other)}", "seeds", *map(_labelled, sizes)], rows)


def growth_table(study: Study, readout: str, sizes: Sequence[str]) -> str:
    """MDAE and MAE by steps of pre-training."""
    budgets = sorted(step for step in study.rows.steps.unique() if step)
    rows = []
    for encoder in ("mdae", "mae"):
        for steps in budgets:
            found = [study.values(encoder, readout, size, int(steps)) for size in sizes]
            if any(one is not None for one in found):
                cells = ["" if one is None else str(curve_estimate(one)) for one in found]
                seeds = max(len(one) for one in found if one is not None)
                rows.append([f"{NAMES[encoder]}, {steps:,} steps", str(seeds), *cells])
    return markdown(["Dice [95 %]", "seeds", *map(_labelled, sizes)], rows)


def search_table(study: Study, base: str) -> str:
    """What was searched for one objective: Dice of val subjects, and what it is above the setting of the study."""
    columns = [(readout, size) for readout in ("beside", "alone") for size in ("4", "16")]
    names = [name for name in study.encoders("beside") if name == base or name.startswith(f"{base}, ")]
    rows = []
    for name in sorted(names, key=lambda own: (own != base, own)):
        cells = []
        for readout, size in columns:
            values = study.values(name, readout, size)
            apart = None if name == base else study.difference(name, base, readout, size)
            shown = "" if values is None else f"{curve_estimate(values).value:.3f}"
            cells.append(shown if apart is None else f"{shown} ({apart[0].signed()})")
        rows.append([name.removeprefix(f"{base}, ") if name != base else "block 8, lr 2e-3", *cells])
    header = [f"{readout}, after {size}" for readout, size in columns]
    return markdown([NAMES[base], *header], rows)


def _labelled(size: str) -> str:
    return f"all {ALL}" if size == "all" else size


def picture(study: Study) -> Figure:
    """Dice against the number of labelled subjects, with bands: a panel a readout."""
    panels = [readout for readout in PANELS if (study.rows.readout == readout).any()]
    figure = Figure(figsize=(4.3 * len(panels) + 1.5, 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, readout in zip(axes, panels, strict=True):
        lines = []
        for encoder, (colour, style) in LINES.items():
            found = {size: study.values(encoder, readout, size) for size in study.common(readout)}
            known = {number(size): curve_estimate(one) for size, one in found.items() if one is not None}
            points = {at: (own.value, own.low, own.high) for at, own in known.items()}
            lines.append((NAMES.get(encoder, encoder), colour, style, points))
        curve_panel(axis, [line for line in lines if line[-1]], PANELS[readout])
        axis.set_xticks([number(size) for size in study.sizes], [_labelled(size) for size in study.sizes])
    axes[0].set_ylabel("Dice, test subjects")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def tables(study: Study) -> dict[str, str]:
    """Every table by name."""
    found = {"few-beside": dice_table(study, "beside", SIZES), "few-alone": dice_table(study, "alone", SIZES)}
    for readout in ("beside", "alone"):
        found[f"few-{readout}-gain"] = gain_table(study, readout, "untrained", SIZES)
        found[f"few-{readout}-objectives"] = gain_table(study, readout, "mae", SIZES)
    found["few-position-gain"] = gain_table(study, "beside", "position", SIZES)
    found["few-growth"] = growth_table(study, "beside", SIZES)
    if (study.rows.readout == "fine-tuned").any():
        found["few-tuned"] = dice_table(study, "fine-tuned", study.sizes_of("fine-tuned"))
    return found


def searched(study: Study) -> dict[str, str]:
    """The tables of what was searched, by name."""
    return {f"few-search-{base}": search_table(study, base) for base in ("mdae", "mae")}


def all_tables() -> dict[str, str]:
    """Every table that there are rows of."""
    found = tables(Study(read_rows(RESULTS / "hippocampus.csv")))
    val = read_rows(RESULTS / "hippocampus-val.csv")
    return found | (searched(Study(val)) if len(val) else {})


def main() -> None:
    save_png(PICTURE, picture(Study(read_rows(RESULTS / "hippocampus.csv"))))
    PAGE.write_text(filled(PAGE.read_text(), all_tables()))


if __name__ == "__main__":
    main()
