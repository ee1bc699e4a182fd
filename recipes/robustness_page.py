"""The picture and the tables of `recipes.robustness`, from its table of rows.

python -m recipes.robustness_page
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdae.evaluation.statistics.curve import curve_difference, curve_estimate
from mdae.evaluation.statistics.tests import holm
from mdae.figures import GRID, save_png
from recipes.few_labels import BASELINES, read_rows
from recipes.few_labels_page import LINES, VAL, Study, best_of_each, title
from recipes.page import PAGE, SURE, filled, markdown, signed
from recipes.robustness import CLEAN, DEGRADED, NOISE, RESULTS, VOXELS_MM, readout_of

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "robustness.png"
SIZES = ("4", "16")
READOUT = "alone"
MAE = "mae"
PANELS = {
    "Rician noise, standard deviations of the crop": {CLEAN: 0.0, **NOISE},
    "voxels, mm": {CLEAN: 1.0, **VOXELS_MM},
}


class Degradations:
    """The finished rows by degradation.

    Args:
        rows: as `recipes.robustness` keeps them.
        readout: of them.
        drawn: the encoder that stands for an objective, where it is not called by the objective's own name.
    """

    def __init__(
        self, rows: pd.DataFrame, readout: str = READOUT, drawn: Mapping[str, str] | None = None
    ) -> None:
        self.studies, self.drawn = {}, drawn or {}
        for how in (CLEAN, *DEGRADED):
            names = [readout_of(readout, how), readout_of("beside", how)]  # baselines stand beside nothing
            own = rows[
                (rows.readout == names[0]) | (rows.encoder.isin(BASELINES) & (rows.readout == names[1]))
            ]
            self.studies[how] = Study(own.assign(readout=readout), kept=tuple(self.drawn.values()))
        self.readout = readout

    @property
    def encoders(self) -> list[str]:
        """Baselines first."""
        return self.studies[CLEAN].encoders(self.readout)

    def values(self, encoder: str, size: str, how: str) -> np.ndarray | None:
        """Dice (seeds, draws, N)."""
        return self.studies[how].values(encoder, self.readout, size)

    def lost(self, encoder: str, size: str, how: str) -> np.ndarray:
        """What a degradation changes of the Dice of clean scans, (seeds, draws, N); no seed where it is not known."""
        found = self.lost_by_seed(encoder, size, how)
        return np.stack(list(found.values())) if found else np.empty((0, 0, 0))

    def lost_by_seed(self, encoder: str, size: str, how: str) -> dict[int, np.ndarray]:
        """The same, (draws, N) by seed."""
        own, clean = (self.studies[name].by_seed(encoder, self.readout, size) for name in (how, CLEAN))
        return {seed: own[seed] - clean[seed] for seed in sorted(own.keys() & clean.keys())}


def dice_table(found: Degradations, size: str) -> str:
    """Mean Dice with intervals, an encoder a row, a degradation a column."""
    rows = []
    for encoder in found.encoders:
        values = [found.values(encoder, size, how) for how in (CLEAN, *DEGRADED)]
        seeds = "" if encoder in BASELINES else str(max(len(own) for own in values if own is not None))
        shown = ["" if own is None else str(curve_estimate(own)) for own in values]
        rows.append([title(encoder), seeds, *shown])
    return markdown(["Dice [95 %]", "seeds", CLEAN, *DEGRADED], rows)


def lost_table(found: Degradations, size: str) -> str:
    """What degradation changes of each encoder, less what it changes of MAE, paired.

    Bold where Holm's p over the table is below 0.05, of two seeds or more.
    """
    mae = found.drawn.get(MAE, MAE)
    networks = [name for name in found.encoders if name not in BASELINES]
    lost = {(name, how): found.lost_by_seed(name, size, how) for name in networks for how in DEGRADED}
    seeds = {
        name: sorted(set.intersection(*(set(lost[own, how]) for own in (name, mae) for how in DEGRADED)))
        for name in networks
    }
    names = [name for name in networks if name != mae and seeds[name]]
    known = {
        (name, how): curve_difference(
            *(np.stack([lost[own, how][seed] for seed in seeds[name]]) for own in (name, mae))
        )
        for name in names
        for how in DEGRADED
    }
    sure = dict(zip(known, holm([p for _, p in known.values()]), strict=True))
    rows = []
    for name in names:
        cells = []
        for how in DEGRADED:
            gain = known[name, how][0]
            told = len(seeds[name]) > 1 and sure[name, how] < SURE  # one seed tells nothing of others
            cells.append(signed(gain.value, gain.low, gain.high, sure=told))
        rows.append([title(name), str(len(seeds[name])), *cells])
    return markdown(["change less MAE's", "seeds", *DEGRADED], rows)


def picture(found: Degradations) -> Figure:
    """Dice against the strength, with bands: a column a kind, a row a number of labelled persons."""
    figure = Figure(figsize=(9.5, 6.2), layout="constrained")
    axes = figure.subplots(len(SIZES), len(PANELS), sharey=True, squeeze=False)
    for size, row in zip(SIZES, axes, strict=True):
        for (words, strengths), axis in zip(PANELS.items(), row, strict=True):
            _panel(axis, found, size, strengths)
            axis.set_xlabel(words, fontsize=8)
        row[0].set_ylabel(f"Dice, {size} labelled persons")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _panel(axis: Axes, found: Degradations, size: str, strengths: dict[str, float]) -> None:
    for encoder, (colour, style) in LINES.items():
        points = {
            strength: curve_estimate(values)
            for how, strength in strengths.items()
            if (values := found.values(found.drawn.get(encoder, encoder), size, how)) is not None
        }
        if points:
            x, own = list(points), list(points.values())
            label = title(encoder)
            axis.plot(x, [e.value for e in own], style, color=colour, marker="o", markersize=3.5, label=label)
            axis.fill_between(
                x, [e.low for e in own], [e.high for e in own], color=colour, alpha=0.12, linewidth=0
            )
    axis.set_xticks(list(strengths.values()))
    axis.grid(color=GRID, linewidth=0.8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def tables(found: Degradations) -> dict[str, str]:
    """Every table by name."""
    return {
        **{f"robust-{size}": dice_table(found, size) for size in SIZES},
        **{f"robust-{size}-lost": lost_table(found, size) for size in SIZES},
    }


def results() -> Degradations:
    """The committed rows."""
    return Degradations(read_rows(RESULTS / "hippocampus.csv"), drawn=best_of_each(read_rows(VAL)))


def all_tables() -> dict[str, str]:
    """Those of the committed rows."""
    return tables(results())


def main() -> None:
    save_png(PICTURE, picture(results()))
    PAGE.write_text(filled(PAGE.read_text(), all_tables()))


if __name__ == "__main__":
    main()
