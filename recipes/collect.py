"""What the field found, small enough to stand beside the code: tables, losses, a picture, hardware and versions.

    python -m recipes.collect field

It writes `recipes/results/`, a CSV for each question, `losses.csv`, `about.json`; and the picture and the tables of
`docs/does-it-help.md`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure
from scipy import stats
from tyro.conf import Positional

from benchmarks.common import machine
from mdae.sweep.spec import read_spec
from recipes.field import FieldConfig, questions
from recipes.page import CONTRASTS, PAGE, PLACES, RESULTS, SURE, filled, tables

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "does-it-help.png"


def losses(out: Path) -> pd.DataFrame:
    """Each variant's own loss over its last fifth of steps, as a share of that over the first."""
    shares: dict[str, list[float]] = {}
    for run in read_spec(out / "field.yaml").runs():
        history = out / "runs" / run.key / "run" / "train.csv"
        loss = pd.read_csv(history).loss.to_numpy() if history.exists() else np.zeros(0)
        if fifth := len(loss) // 5:
            shares.setdefault(run.variant, []).append(loss[-fifth:].mean() / loss[:fifth].mean())
    rows = [
        {"variant": name, "share": sum(own) / len(own), "lowest": min(own), "highest": max(own)}
        for name, own in shares.items()
    ]
    return pd.DataFrame(rows)


def real(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over the patients by variant, and what is gained over no training; Student's intervals over seeds alone.

    Two patients say nothing of others, so a sweep gives no interval over them.
    """
    rows = []
    for contrast, here in runs.groupby("modality", sort=False):
        found = here.pivot(index="seed", columns="variant", values="average_precision")
        dice = here.groupby("variant").dice.mean()
        for variant in here.variant.unique():
            gain = (found[variant] - found["untrained"]).dropna()  # of seeds that both have
            half = stats.t.ppf(0.975, len(gain) - 1) * gain.sem()
            about = {"variant": variant, "modality": contrast, "num_seeds": len(gain), "dice": dice[variant]}
            about |= {"average_precision": found[variant].mean(), "seed_sd": found[variant].std()}
            rows.append(about | {"gain": gain.mean(), "low": gain.mean() - half, "high": gain.mean() + half})
    return pd.DataFrame(rows)


def picture(gain: pd.DataFrame) -> Figure:
    """What each objective adds to an untrained network, in the seen and in the unseen contrast."""
    gain = gain[(gain.protocol == "voxels") & (gain.variant != "untrained")]
    both = gain[gain.modality == "all"].sort_values("difference")
    figure = Figure(figsize=(11, 0.32 * len(both) + 1.2))
    for axis, name in zip(figure.subplots(1, 2, sharey=True, sharex=True), CONTRASTS, strict=True):
        own = gain[gain.modality == name].set_index("variant").loc[both.variant]
        for place, (_, row) in enumerate(own.iterrows()):
            colour = "#c05020" if row["p_holm"] < SURE else "#808080"
            axis.plot(row[["difference_low", "difference_high"]], [place, place], color=colour, linewidth=2)
            axis.plot(row["difference"], place, "o", color=colour)
        axis.set_yticks(range(len(own)), list(own.index))
        axis.axvline(0.0, color="gray", linewidth=1, linestyle=":")
        axis.set_title(f"{PLACES[name]} in pre-training", fontsize=10)
        axis.set_xlabel("Dice less that of an untrained network")
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def collect(out: Path, results: Path, page_picture: Path) -> None:
    """Write what is in the folder of `recipes.field`.

    Args:
        out: that folder.
        results: folder of the tables.
        page_picture: file of the picture.
    """
    results.mkdir(exist_ok=True)
    for old in results.glob("*.csv"):
        old.unlink()
    config, timed = (json.loads((out / name).read_text()) for name in ("config.json", "steps.json"))
    for name in questions(FieldConfig(**{**config, "out": out}), timed["steps"]):
        table = pd.read_csv(out / name / ("runs.csv" if name == "real" else "summary.csv"))
        own = real(table) if name == "real" else table.dropna(axis="columns", how="all")
        own.round(4).to_csv(results / f"{name}.csv", index=False)
    losses(out).round(3).to_csv(results / "losses.csv", index=False)
    del config["out"], config["real"]
    about = {"machine": machine(), "config": config, **timed}
    (results / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    picture(pd.read_csv(out / "gain" / "summary.csv")).savefig(page_picture, dpi=150)


def main(out: Positional[Path]) -> None:
    """Collect from OUT."""
    collect(out, RESULTS, PICTURE)
    PAGE.write_text(filled(PAGE.read_text(), tables(RESULTS)))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
