"""`mdae demo`: from nothing (or a folder of scans) to a page that shows what the method does."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import Preprocessing
from mdae.data.stack import read
from mdae.data.store import Store
from mdae.data.synth import SynthConfig, synthesise
from mdae.data.tables import attach_labels, read_table
from mdae.evaluation.configs import EmbedConfig
from mdae.evaluation.features.embed import embed_items
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.features.items import list_items
from mdae.evaluation.probing.cross_validation import cross_validate
from mdae.evaluation.probing.estimators import LINEAR
from mdae.evaluation.probing.probe import feature_matrix
from mdae.evaluation.statistics.intervals import auroc, average_precision, cross_validation_widening
from mdae.evaluation.statistics.tests import delong
from mdae.inference.restore import Reconstruction, restore
from mdae.networks import preset
from mdae.networks.saved import SavedModel, load_model
from mdae.options import ObjectiveOptions
from mdae.report.config import DemoConfig
from mdae.report.figures import forest_figure, landscape_figure, loss_figure, steps_figure
from mdae.report.page import Page
from mdae.seeding import torch_generator
from mdae.training.config import PretrainConfig
from mdae.training.loop import pretrain
from mdae.training.run import open_run
from mdae.version import __version__

PRETRAINING_SHARE = 0.3  # of the made-up subjects; the others are probed
SEEN, UNSEEN = ("T1w", "T2w"), "FLAIR"
PREPROCESSING = Preprocessing(spacing_mm=(2.0, 2.0, 2.0))  # coarse: made for two cores
PATCH = (32, 32, 32)  # small windows, many of them: a lesion is small
BLOCK = (8, 8, 8)  # 16 mm, as 16 voxels are at 1 mm
RATIOS, TIMES = (0.25, 0.5, 0.75, 0.95), (0.0, 0.1, 0.3, 1.0)
FOLDS = 5
WIDENING = cross_validation_widening(FOLDS)
HISTOGRAM = np.linspace(-4, 4, 41)


@dataclass
class Clock:
    """How long each part took."""

    parts: dict[str, float] = field(default_factory=dict)

    def timed(self, name: str, work: Callable[[], object]) -> None:
        """Do `work` and note its seconds."""
        started = time.monotonic()
        work()
        self.parts[name] = time.monotonic() - started


def demo(config: DemoConfig) -> Path:
    """Run the demo and return the page. Interrupted and repeated, it goes on where it was.

    Raises:
        MDAEError: as its parts do, e.g. `DataError` for a source without scans.
    """
    clock, out = Clock(), config.out
    store, training = out / "store", _training(config)
    if config.source is None:
        clock.timed("making up subjects", lambda: _make_cohorts(config))
    source = config.source or out / "cohort" / "pretraining"
    clock.timed(
        "preparing",
        lambda: prepare(PrepareConfig(source=source, store=store, preprocessing=PREPROCESSING)),
    )
    clock.timed("pre-training", lambda: pretrain(training))
    model = load_model(training.out / "model")
    page = Page(
        "Masked-Diffusion Autoencoders, in five minutes",
        "One network inpaints what is masked and denoises what is visible, learns without labels, "
        "and its encoder is then used on a clinical question.",
    )
    clock.timed("reconstructing", lambda: _show_method(page, model, training))
    _show_losses(page, training)
    if config.source is None:
        clock.timed("probing", lambda: _show_probe(page, config, model, training))
    _show_rest(page, config, clock)
    path = out / "index.html"
    page.save(path)
    return path


def _training(config: DemoConfig) -> PretrainConfig:
    return PretrainConfig(
        store=config.out / "store",
        out=config.out / "run",
        steps=config.steps,
        batch=8,
        patch=PATCH,
        lr=2e-3,
        val_every=max(1, config.steps // 8),
        val_fraction=0.15,
        checkpoint_every=max(1, config.steps // 4),
        picture_every=max(1, config.steps // 2),
        seed=config.seed,
        options=ObjectiveOptions(block=BLOCK),
    )


def _make_cohorts(config: DemoConfig) -> None:
    """Two cohorts without a subject in common: one to pre-train on, without labels, and one to probe."""
    first = round(PRETRAINING_SHARE * config.subjects)
    cohort = config.out / "cohort"
    synthesise(SynthConfig(out=cohort / "pretraining", subjects=first, contrasts=SEEN, seed=2 * config.seed))
    synthesise(
        SynthConfig(
            out=cohort / "probing",
            subjects=config.subjects - first,
            contrasts=(SEEN[-1], UNSEEN),
            seed=2 * config.seed + 1,
        )
    )


# -- what the method does ---------------------------------------------------------------------------------------


def _show_method(page: Page, model: SavedModel, training: PretrainConfig) -> None:
    """The corruptions on a held-out subject, and reconstructions over mask ratio and noise."""
    run = open_run(training)
    scan = (run.validation or run.train)(0).scan
    volume = read(Store.open(training.store), scan)[0].astype(np.float32)

    def cell(ratio: float, t: float) -> Reconstruction:
        return restore(model, volume, ratio, t, training.seed)

    page.section(
        "Two corruptions at once",
        "Blocks of the volume are hidden (set to 0) and diffusion noise is added to what stays visible. From that, the "
        "network predicts the clean volume everywhere. This subject was not trained on.",
    )
    page.figure(
        steps_figure(cell(0.5, 0.15), cell(0.5, 0.0), cell(0.0, 0.15)),
        "One axial slice, half the blocks masked.",
    )
    page.section(
        "From easy to impossible",
        "Left of each pair the input, right what the network makes of it; below, the mean squared error on masked and "
        "on visible voxels, background and all (z-scored, so 1 is the head's variance).",
    )
    cells = {(ratio, t): cell(ratio, t) for ratio in RATIOS for t in TIMES}
    page.figure(landscape_figure(cells), "Mask ratio from top to bottom, noise from left to right.", dpi=90)


def _show_losses(page: Page, training: PretrainConfig) -> None:
    train = pd.read_csv(training.out / "train.csv")
    held_out = training.out / "val.csv"
    page.section("What it learned from", "The two terms of the loss over pre-training.")
    page.figure(
        loss_figure(train, pd.read_csv(held_out) if held_out.exists() else None),
        "Masked: inpainting. Visible: denoising. Points: held-out subjects with fixed corruptions.",
    )


# -- what it is good for ----------------------------------------------------------------------------------------


def _show_probe(page: Page, config: DemoConfig, model: SavedModel, training: PretrainConfig) -> None:
    """Lesion against none, on subjects that pre-training never saw, by trained and untrained features."""
    cohort, store = config.out / "cohort" / "probing", config.out / "probe-store"
    prepare(PrepareConfig(source=cohort, store=store, preprocessing=PREPROCESSING))
    trained, untrained = features_by_pool(model, store), features_by_pool(_untrained(model, training), store)
    tables = {
        **{f"pre-trained, {pool}": table for pool, table in trained.items()},
        **{f"untrained, {pool}": table for pool, table in untrained.items()},
        "intensity histogram": _histograms(store),
    }
    labels = read_table(cohort / "participants.tsv")
    rows, forest = [], []
    for contrast, kind in ((SEEN[-1], "seen in pre-training"), (UNSEEN, "never seen")):
        scores = {
            name: _scores(table, labels, contrast, cohort, config.seed) for name, table in tables.items()
        }
        for name, (y, score, subjects) in scores.items():
            area = auroc(y, score, subjects, widening=WIDENING, seed=config.seed)
            precision = average_precision(y, score, subjects, widening=WIDENING, seed=config.seed)
            twin = scores.get(name.replace("pre-trained", "untrained")) if "pre-trained" in name else None
            gain = "" if twin is None else _gain(y, score, twin[1])
            rows.append([f"{contrast} ({kind})", name, str(area), str(precision), gain])
            forest.append((f"{contrast}: {name}", area.value, area.low, area.high))
    table = pd.DataFrame(rows, columns=["contrast", "features", "auroc", "ap", "auroc_gain_over_untrained"])
    table.to_csv(config.out / "probe.csv", index=False)
    count = len(labels)
    page.section(
        "Is there a lesion? A linear probe on frozen features",
        f"{count} subjects that pre-training never saw, half of them with white-matter lesions. Logistic regression by "
        "cross-validation over subjects, its penalty chosen within each training part. Features are the means (what is "
        "everywhere) or the maxima (what is somewhere) of the encoder's maps over windows.",
    )
    header = ["contrast", "features", "AUROC [95 %]", "AP [95 %]", "AUROC gain over untrained"]
    page.table(header, rows, strong=[i for i, row in enumerate(rows) if "pre-trained" in row[1]])
    page.figure(
        forest_figure(forest, label="AUROC, 95 % interval over subjects", line=0.5, limits=(0.2, 1.0)),
        "Intervals resample subjects, widened for the refitting of cross-validation. The dotted line is chance.",
    )
    page.note(
        "A few minutes on two cores with a tiny network show that the method runs, not how well it does: read "
        "overlapping intervals as undecided."
    )


def _untrained(model: SavedModel, training: PretrainConfig) -> SavedModel:
    """The same network with the weights that pre-training started from."""
    generator = torch_generator(training.seed, "weights")
    network = preset(training.network).new(generator).eval()
    return SavedModel(network, model.contract, model.patch)


def features_by_pool(model: SavedModel, store: Path) -> dict[str, pd.DataFrame]:
    """The features of a prepared store by pooling: means and maxima of the same maps."""
    encoder = Encoder(model)
    config = EmbedConfig(model="", scans=(store,), pool="both")
    table = embed_items(encoder, list_items(store, encoder), config).table
    names = [name for name in table.columns if name[1:].isdigit()]
    half = len(names) // 2
    return {"mean": table.drop(columns=names[half:]), "max": table.drop(columns=names[:half])}


def _histograms(store: Path) -> pd.DataFrame:
    """A baseline that any encoder has to beat: how often each intensity occurs in the head."""
    opened = Store.open(store)
    rows = []
    for scan in opened.scans:
        volume = opened.read(scan).astype(np.float32)
        head = volume[volume > scan.background + 0.25]
        shares = np.histogram(head, bins=HISTOGRAM, density=True)[0]
        about = {"scan": scan.scan_id, "subject": scan.subject, "contrast": scan.contrast}
        rows.append({**about, **{f"f{i:04d}": share for i, share in enumerate(shares)}})
    return pd.DataFrame(rows)


def _scores(
    table: pd.DataFrame, labels: pd.DataFrame, contrast: str, where: Path, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, cross-validated scores and subjects of one contrast, in the order of the subjects."""
    rows = attach_labels(table[table["contrast"] == contrast], labels, "lesion", where).sort_values("subject")
    y, subjects = rows["lesion"].to_numpy(dtype=np.int64), rows["subject"].to_numpy(dtype=str)
    return (
        y,
        cross_validate(LINEAR, feature_matrix(rows), y, subjects, folds=FOLDS, repeats=3, seed=seed).scores,
        subjects,
    )


def _gain(labels: np.ndarray, scores: np.ndarray, other: np.ndarray) -> str:
    """The paired difference in AUROC, signed, with its interval by DeLong as on a leaderboard; one scan a subject."""
    gain, _ = delong(labels, scores, other, widening=WIDENING)
    return f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


def _show_rest(page: Page, config: DemoConfig, clock: Clock) -> None:
    """What it took, and what to do next."""
    page.section("On your own scans", "The same steps on a folder of NIfTI or a BIDS tree:")
    page.commands(
        "mdae prepare SCANS store\n"
        "mdae pretrain store run --network small --steps 20000\n"
        "mdae embed run/model SCANS --out features.csv\n"
        "mdae probe features.csv labels.csv --label diagnosis"
    )
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in clock.parts.items())
    page.note(
        f"mdae {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"seed {config.seed}, {config.steps} steps. {parts}; together {sum(clock.parts.values()):.0f} s."
    )
