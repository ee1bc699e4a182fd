"""The picture and the tables of `recipes.few_labels`, from its table of rows.

    python -m recipes.few_labels_page

It fills `docs/does-it-help.md`, as `recipes.collect` does for the older field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mdae.evaluation.statistics.curve import curve_difference, curve_estimate
from mdae.evaluation.statistics.intervals import Estimate
from mdae.evaluation.statistics.tests import holm
from mdae.figures import curve_panel, save_png
from recipes.few_labels import BASELINES, CHOOSING, KEY, RESULTS, VERSION, read_rows
from recipes.few_labels_encoders import (
    BLOCKS,
    CELLS,
    DESIGNS,
    NOISES,
    OWN,
    RATES,
    UNTRAINED,
    chosen,
    searched,
)
from recipes.page import PAGE, SURE, bold, filled, markdown, signed

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "few-labels.png"
ALL = 100  # labelled train subjects
STEPS = 1000  # of pre-training, in the main comparison
SIZES = ("1", "4", "16", "all")  # of the tables
TEST, VAL = RESULTS / "hippocampus.csv", RESULTS / "hippocampus-val.csv"
FRESH = 2  # the first seed that had no part in choosing a design
CONFIRMED = ("mdae, noise to 1", "mdae, gradient")  # designs whose means were highest on val subjects
GROWN = (
    *("mdae, 25 volumes", "mdae, 80 volumes"),
    *("untrained, small", "mdae, small", "mae, small"),
)
FIRST_RATE = "lr 2e-3"
FIRST = ("mdae", "mae", "dsm")  # also shown as they were before anything was searched
NAMES = {
    "position": "place and intensities",
    "mdae": "MDAE",
    "mae": "MAE",
    "dsm": "DSM",
    "mdae-masked": "MDAE, masked loss",
    "diffmae": "DiffMAE",
    "spark": "SparK",
    "simmim": "SimMIM",
    "voco": "VoCo",
    "simclr": "SimCLR",
    "spectral": "MDAE, spectral term",
    "spread": "MDAE, features kept apart",
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


def title(encoder: str) -> str:
    """How an encoder is called: its objective's name in the papers, and what is changed."""
    base, *changes = encoder.split(", ")
    return ", ".join([NAMES.get(base, base), *changes])


class Study:
    """The finished rows.

    Args:
        rows: as `recipes.few_labels` keeps them.
        steps: of pre-training that encoders are compared at.
        kept: encoders that are shown, by their order, behind the baselines and the untrained network; all if left out.
        drawn: which of them stands for an objective in pictures, where it is not the objective's own name.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        steps: int = STEPS,
        kept: Sequence[str] = (),
        drawn: Mapping[str, str] | None = None,
    ) -> None:
        self.rows = rows = rows[rows.version == VERSION]
        self.steps, self.kept, self.drawn = steps, kept, drawn or {}
        self.subjects = [name for name in rows.columns if name not in (*KEY, "dice")]
        self.sizes = sorted(rows.labelled.unique(), key=number)

    def sizes_of(self, readout: str) -> list[str]:
        """Numbers of labelled subjects that an encoder was read out after."""
        here = self.rows[(self.rows.readout == readout) & ~self.rows.encoder.isin(BASELINES)]
        return [size for size in self.sizes if (here.labelled == size).any()]

    def common(self, readout: str) -> list[str]:
        """Those of every encoder of the picture that has this readout: a line through other numbers would mislead."""
        here = self.encoders(readout)
        shown = [name for name in (self.drawn.get(own, own) for own in LINES) if name in here]
        return [
            size
            for size in self.sizes_of(readout)
            if all(self.values(name, readout, size) is not None for name in shown)
        ]

    def encoders(self, readout: str) -> list[str]:
        """Those with this readout, baselines first, then the untrained network."""
        order = [*BASELINES, UNTRAINED, *self.kept]
        found = self._of(readout, self.steps).encoder.unique()
        others = [] if self.kept else [name for name in found if name not in order]
        return [name for name in order if name in found] + others

    def values(
        self, encoder: str, readout: str, labelled: str, steps: int | None = None
    ) -> np.ndarray | None:
        """Dice (seeds, draws, N) of the seeds that have every draw; None if none has."""
        found = self.by_seed(encoder, readout, labelled, steps)
        return np.stack(list(found.values())) if found else None

    def by_seed(
        self, encoder: str, readout: str, labelled: str, steps: int | None = None
    ) -> dict[int, np.ndarray]:
        """The same, (draws, N) by seed."""
        own = self._of(readout, self.steps if steps is None else steps)
        own = own[(own.encoder == encoder) & (own.labelled == labelled)]
        tables = {
            int(seed): part.sort_values("draw")[self.subjects].to_numpy()
            for seed, part in own.groupby("seed")
        }
        most = max(map(len, tables.values()), default=0)
        return {seed: one for seed, one in tables.items() if len(one) == most}

    def _of(self, readout: str, steps: int) -> pd.DataFrame:
        rows = self.rows
        network = (rows.readout == readout) & rows.steps.isin((0, steps)) & ~rows.encoder.isin(BASELINES)
        return rows[network | rows.encoder.isin(BASELINES)]

    def pairs(self, encoder: str, other: str, readout: str, labelled: str) -> list[int]:
        """The seeds at which two encoders can be compared: those of both, and all with a baseline, which has none."""
        one, two = (self.by_seed(name, readout, labelled) for name in (encoder, other))
        return sorted(one) if other in BASELINES else sorted(one.keys() & two.keys())

    def difference(
        self, encoder: str, other: str, readout: str, labelled: str
    ) -> tuple[Estimate, float] | None:
        """Paired by seed, draw and subject, as far as both have them; all seeds are paired with a baseline's one."""
        one, two = (self.by_seed(name, readout, labelled) for name in (encoder, other))
        seeds = self.pairs(encoder, other, readout, labelled)
        if not seeds or not two:
            return None
        own = np.stack([one[seed] for seed in seeds])
        others = np.stack([two.get(seed, two[min(two)]) for seed in seeds])
        draws = min(own.shape[1], others.shape[1])
        return curve_difference(own[:, :draws], others[:, :draws])


def dice_table(study: Study, readout: str, sizes: Sequence[str]) -> str:
    """Mean Dice with intervals, an encoder a row, a number of labelled subjects a column."""
    rows = [
        _row(study, title(encoder), encoder, readout, sizes, study.steps)
        for encoder in study.encoders(readout)
    ]
    return markdown(["Dice [95 %]", "seeds", *map(_labelled, sizes)], rows)


def _row(study: Study, name: str, encoder: str, readout: str, sizes: Sequence[str], steps: int) -> list[str]:
    found = [study.values(encoder, readout, size, steps) for size in sizes]
    seeds = max((len(one) for one in found if one is not None), default=0)
    cells = ["" if one is None else str(curve_estimate(one)) for one in found]
    return [name, "" if encoder in BASELINES else str(seeds), *cells]


def gain_table(study: Study, readout: str, other: str, sizes: Sequence[str]) -> str:
    """Each encoder less another, paired; bold where Holm's p over the table is below 0.05."""
    names = [name for name in study.encoders(readout) if name != other and name not in BASELINES]
    return _gains(
        study, f"less {title(other)}", {title(name): (name, other, readout) for name in names}, sizes
    )


def lasting_table(study: Study, encoder: str, other: str) -> str:
    """Up to how many labelled subjects an encoder helps: less another, a readout a row."""
    pairs = {PANELS[readout]: (encoder, other, readout) for readout in ("alone", "beside")}
    return _gains(study, f"{title(encoder)} less {title(other)}", pairs, study.sizes)


def _gains(study: Study, head: str, pairs: Mapping[str, tuple[str, str, str]], sizes: Sequence[str]) -> str:
    """Differences, a row each; bold where Holm's p over the table is below 0.05, of two seeds or more.

    Args:
        study: the finished rows.
        head: of the first column.
        pairs: the row's name to encoder, what is taken from it, and readout.
        sizes: numbers of labelled subjects.
    """
    found = {(row, size): study.difference(*pair, size) for row, pair in pairs.items() for size in sizes}
    known = {place: one for place, one in found.items() if one is not None}
    sure = dict(zip(known, holm([p for _, p in known.values()]), strict=True))
    rows = []
    for row, pair in pairs.items():
        cells = []
        for size in sizes:
            if (one := known.get((row, size))) is None:
                cells.append("")
                continue
            several = len(study.pairs(*pair, size)) > 1  # one seed tells nothing of others
            gain, told = one[0], several and sure[row, size] < SURE
            cells.append(signed(gain.value, gain.low, gain.high, sure=told))
        rows.append([row, str(len(study.pairs(*pair, sizes[0]))), *cells])
    return markdown([head, "seeds", *map(_labelled, sizes)], rows)


def growth_table(study: Study, readout: str, sizes: Sequence[str]) -> str:
    """MDAE and MAE, nothing searched: by steps of pre-training, by the scans that are seen, and in a larger network."""
    rows = []
    for encoder in ("mdae", "mae"):
        for steps in sorted(study.rows.steps[study.rows.encoder == encoder].unique()):
            name = f"{title(encoder)}, {steps:,} steps"
            rows.append(_row(study, name, encoder, readout, sizes, int(steps)))
    rows += [
        _row(study, title(encoder), encoder, readout, sizes, STEPS)
        for encoder in GROWN
        if study.values(encoder, readout, sizes[-1], STEPS) is not None
    ]
    return markdown(["Dice [95 %]", "seeds", *map(_labelled, sizes)], rows)


def mean_dice(study: Study, encoder: str) -> float:
    """Of the readout that settings are chosen by, over what val subjects were read out after; NaN if they were not."""
    found = [study.values(encoder, CHOOSING, size) for size in study.sizes]
    known = [values.mean() for values in found if values is not None]
    return float(np.mean(known)) if known else math.nan


def search_table(study: Study) -> str:
    """What was tried of every objective, on val subjects; the rate and the setting that were taken are bold."""
    here = study.rows[(study.rows.readout == CHOOSING) & (study.rows.steps == study.steps)]
    rows = []
    for base in OWN:
        dice = searched(base, here)
        if dice.empty:
            continue
        taken = chosen(base, here).split(", ")
        cells = []
        for changes in (RATES, OWN[base]):
            first = not any(change in taken for change in changes)
            shown = [(FIRST_RATE if changes is RATES else "as it is", dice[base], first)]
            shown += [(one, dice[f"{base}, {one}"], one in taken) for one in changes]
            cells.append(" · ".join(bold(f"{name}: {value:.3f}", sure) for name, value, sure in shown))
        rows.append([title(base), *cells])
    return markdown(["Dice of val subjects", "learning rate", "a setting of its own"], rows)


def designs_table(study: Study, base: str = "mdae") -> str:
    """One change of MDAE each, on val subjects: Dice, and what it is above MDAE itself."""
    columns = [size for size in study.sizes if study.values(base, CHOOSING, size) is not None]
    rows = []
    for name in (base, *DESIGNS):
        cells = []
        for size in columns:
            values = study.values(name, CHOOSING, size)
            apart = None if name == base else study.difference(name, base, CHOOSING, size)
            shown = "" if values is None else f"{curve_estimate(values).value:.3f}"
            cells.append(shown if apart is None else f"{shown} ({apart[0].signed()})")
        if any(cells):
            seeds = study.pairs(name, base, CHOOSING, columns[0])
            rows.append([title(name), str(len(seeds)), *cells])
    return markdown(["Dice of val subjects", "seeds", *(f"after {size}" for size in columns)], rows)


def landscape_table(study: Study) -> str:
    """Dice of val subjects by the size of MDAE's blocks and the most noise, the best in bold."""
    found = {place: mean_dice(study, name) for place, name in CELLS.items()}
    best = max(found, key=lambda place: -1 if math.isnan(found[place]) else found[place])
    rows = []
    for block in BLOCKS:
        cells = [bold(f"{found[block, noise]:.3f}", (block, noise) == best) for noise in NOISES]
        rows.append([block or "block 8", *cells])
    return markdown(["Dice of val subjects", *(noise or "noise to 5" for noise in NOISES)], rows)


def _labelled(size: str) -> str:
    return f"all {ALL}" if size == "all" else size


def picture(study: Study) -> Figure:
    """Dice against the number of labelled subjects, with bands: a panel a readout."""
    panels = [readout for readout in PANELS if study.drawn["mdae"] in study.encoders(readout)]
    figure = Figure(figsize=(4.3 * len(panels) + 1.5, 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, readout in zip(axes, panels, strict=True):
        lines = []
        for encoder, (colour, style) in LINES.items():
            drawn = study.drawn.get(encoder, encoder)
            found = {size: study.values(drawn, readout, size) for size in study.common(readout)}
            known = {number(size): curve_estimate(one) for size, one in found.items() if one is not None}
            points = {at: (own.value, own.low, own.high) for at, own in known.items()}
            lines.append((title(encoder), colour, style, points))
        curve_panel(axis, [line for line in lines if line[-1]], PANELS[readout])
        axis.set_xticks([number(size) for size in study.sizes], [_labelled(size) for size in study.sizes])
    axes[0].set_ylabel("Dice, test subjects")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def tables(rows: pd.DataFrame, searched: pd.DataFrame) -> dict[str, str]:
    """Every table of test subjects by name.

    Args:
        rows: of test subjects.
        searched: of val subjects.
    """
    study = main_study(rows, searched)
    found = {"few-beside": dice_table(study, "beside", SIZES), "few-alone": dice_table(study, "alone", SIZES)}
    for readout in ("beside", "alone"):
        found[f"few-{readout}-gain"] = gain_table(study, readout, UNTRAINED, SIZES)
        found[f"few-{readout}-objectives"] = gain_table(study, readout, study.drawn["mae"], SIZES)
    found["few-position-gain"] = gain_table(study, "beside", "position", SIZES)
    first = Study(rows, kept=FIRST)
    for readout in ("beside", "alone"):
        found[f"few-{readout}-first"] = dice_table(first, readout, SIZES)
    found["few-lasting"] = lasting_table(study, study.drawn["mdae"], UNTRAINED)
    found["few-growth"] = growth_table(first, "beside", SIZES[1:])
    fresh = Study(rows[rows.seed >= FRESH], kept=("mdae", *CONFIRMED))
    found["few-confirmed"] = gain_table(fresh, CHOOSING, "mdae", SIZES)
    found["few-tuned"] = dice_table(first, "fine-tuned", first.sizes_of("fine-tuned"))
    found["few-tuned-gain"] = gain_table(first, "fine-tuned", UNTRAINED, first.sizes_of("fine-tuned"))
    return found


def main_study(rows: pd.DataFrame, searched: pd.DataFrame) -> Study:
    """The comparison of all objectives, each as it was chosen on val subjects."""
    best = best_of_each(searched)
    return Study(rows, kept=tuple(best.values()), drawn=best)


def best_of_each(searched: pd.DataFrame) -> dict[str, str]:
    """What was chosen of every objective, by the rows of val subjects."""
    here = searched[(searched.readout == CHOOSING) & (searched.steps == STEPS)]
    return {base: chosen(base, here) for base in OWN}


def searched_tables(rows: pd.DataFrame) -> dict[str, str]:
    """The tables of what was searched on val subjects, by name."""
    study = Study(rows)
    return {
        "few-search": search_table(study),
        "few-designs": designs_table(study),
        "few-landscape": landscape_table(study),
    }


def all_tables() -> dict[str, str]:
    """Every table."""
    rows, searched = read_rows(TEST), read_rows(VAL)
    return tables(rows, searched) | searched_tables(searched)


def main() -> None:
    save_png(PICTURE, picture(main_study(read_rows(TEST), read_rows(VAL))))
    PAGE.write_text(filled(PAGE.read_text(), all_tables()))


if __name__ == "__main__":
    main()
