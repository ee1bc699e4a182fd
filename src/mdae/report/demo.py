"""`mdae demo`: from nothing, or from scans and a few masks, to a page that says what pre-training saves of labels."""

from __future__ import annotations

import csv
import itertools
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.stack import read
from mdae.data.store import Store
from mdae.evaluation.features.extractors import own_model
from mdae.files import atomic_write, write_json
from mdae.inference.restore import Reconstruction, restore
from mdae.networks.saved import SavedModel, load_model
from mdae.options import ObjectiveOptions
from mdae.report.config import DemoConfig
from mdae.report.few_labels import (
    ALONE,
    BESIDE,
    DRAWS,
    POINTS,
    PRETRAINED,
    TRIVIAL,
    UNTRAINED,
    LabelledContrast,
    curves_of,
    read_contrast,
)
from mdae.report.figures import (
    curves_figure,
    landscape_figure,
    loss_figure,
    segmentations_figure,
    steps_figure,
)
from mdae.report.labelled import Labelled, made_up, own
from mdae.report.page import Page
from mdae.report.savings import COLUMNS, Savings
from mdae.text import counted
from mdae.training.config import PretrainConfig
from mdae.training.loop import pretrain
from mdae.training.run import open_run
from mdae.version import __version__

PATCH = (32, 32, 32)  # small windows, many of them
BLOCK = (8, 8, 8)  # a quarter of them
WHAT = "One network inpaints what is masked and denoises what is visible, and so learns without labels."
COLOURS = {PRETRAINED: ("#D55E00", "-"), UNTRAINED: ("#0072B2", "--"), TRIVIAL: ("#999999", ":")}
RATIOS, TIMES = (0.25, 0.5, 0.75, 0.95), (0.0, 0.1, 0.3, 1.0)


@dataclass
class Clock:
    """How long each part took."""

    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Add the seconds of what is done within to a part."""
        started = time.monotonic()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + time.monotonic() - started


def demo(config: DemoConfig) -> Path:
    """Run the demo and return the page. Interrupted and repeated, it goes on where it was.

    Raises:
        MDAEError: as its parts do, e.g. `DataError` for a source without scans or masks of too few subjects.
    """
    clock, training = Clock(), _training(config)
    with clock.timing("making up subjects" if config.source is None else "looking at scans"):
        data = made_up(config) if config.source is None else own(config, config.source)
    with clock.timing("preparing"):
        contrasts = [
            read_contrast(task, data) for task in data.tasks
        ]  # before minutes of training: may be unfit
        prepare(PrepareConfig(source=data.source, store=training.store, preprocessing=data.preprocessing))
    with clock.timing("pre-training"):
        pretrain(training)
    model = load_model(training.out / "model")
    if contrasts:
        with clock.timing("segmenting"):
            page = _savings_page(config, data, contrasts, model, training)
    else:
        page = Page("Masked-Diffusion Autoencoders on your scans", WHAT)
    with clock.timing("reconstructing"):
        _show_method(page, model, training)
    _show_losses(page, training)
    _show_rest(page, config, data, clock)
    path = config.out / "index.html"
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
        val_fraction=0.1,
        checkpoint_every=max(1, config.steps // 4),
        picture_every=0,
        seed=config.seed,
        options=ObjectiveOptions(block=BLOCK),
    )


# -- what it is good for ----------------------------------------------------------------------------------------


def _savings_page(
    config: DemoConfig,
    data: Labelled,
    contrasts: Sequence[LabelledContrast],
    model: SavedModel,
    training: PretrainConfig,
) -> Page:
    """A page that begins with what labels were saved; the numbers behind it as tables."""
    untrained, _, _ = own_model(f"untrained:{training.out / 'model'}:{training.seed}")
    models = {PRETRAINED: model, UNTRAINED: untrained}
    curves = [own for one in contrasts for own in curves_of(one, models, data.sizes, config.seed)]
    store = Store.open(training.store)
    savings = Savings(curves, {scan.contrast for scan in store.scans})
    with atomic_write(config.out / "few_labels.csv") as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *savings.rows()])
    write_json(config.out / "few_labels.json", savings.to_dict([own.subject for own in contrasts[0].tested]))
    structures = ", ".join(contrasts[0].labels[1:])
    page = Page(
        savings.headline(),
        f"{structures[0].upper()}{structures[1:]} of {len(data.tested)} subjects, segmented by a frozen network whose "
        f"linear readout learned from {', '.join(map(str, data.sizes))} labelled others; pre-trained for "
        f"{config.steps} steps on {len(store.scans)} scans without labels, or not at all.",
    )
    page.points([savings.sentence(one, readout) for one in savings.contrasts for readout in (ALONE, BESIDE)])
    page.figure(
        _curves(savings),
        f"Mean Dice of {len(data.tested)} test subjects; bands are 95 % intervals over them and {DRAWS} draws of "
        "labelled subjects. Place and intensities: no network at all.",
    )
    page.figure(
        _segmentations(savings, contrasts),
        f"The first test subject, after {counted(data.sizes[-1], 'labelled subject')}, {BESIDE}.",
    )
    header, lines, strong = savings.table()
    page.table(header, lines, strong=strong)
    page.note(
        "Dice is the mean over structures. * and coloured rows: decided, p < 0.05 after Holm's correction for all "
        "differences in this table; anything else is undecided. Differences pair draws and test subjects. One seed of "
        f"pre-training: another may do better or worse. Readouts learn from {POINTS} voxels of a structure and subject."
    )
    return page


def _curves(savings: Savings) -> Figure:
    """A panel a contrast and readout."""
    panels = {}
    for contrast, readout in itertools.product(savings.contrasts, (ALONE, BESIDE)):
        lines = []
        for encoder, (colour, style) in COLOURS.items():
            found = {size: savings.at(contrast, encoder, readout, size) for size in savings.sizes}
            points = {size: (own.value, own.low, own.high) for size, own in found.items()}
            lines.append((encoder, colour, style, points))
        panels[f"{contrast}, {savings.familiar(contrast)}\n{readout}"] = lines
    return curves_figure(panels)


def _segmentations(savings: Savings, contrasts: Sequence[LabelledContrast]) -> Figure:
    """The first test subject in every contrast: the truth, and what each encoder makes of it."""
    rows = {}
    for contrast in contrasts:
        own = contrast.tested[0]
        curves = {encoder: savings.curve(contrast.name, encoder, BESIDE) for encoder in COLOURS}
        maps = {
            f"{encoder}, Dice {curve.means(savings.sizes[-1])[0, 0]:.2f}": curve.shown
            for encoder, curve in curves.items()
        }
        rows[contrast.name] = own.volume.data[0], {"truth": own.labels, **maps}
    return segmentations_figure(rows, contrasts[0].labels)


# -- what the method does ---------------------------------------------------------------------------------------


def _show_method(page: Page, model: SavedModel, training: PretrainConfig) -> None:
    """The corruptions on a held-out subject, and reconstructions over mask ratio and noise."""
    run = open_run(training)
    scan = (run.validation or run.train)(0).scan
    volume = read(Store.open(training.store), scan)[0].astype(np.float32)

    def cell(ratio: float, t: float) -> Reconstruction:
        return restore(model, volume, ratio, t, training.seed)

    page.section(
        "How it learns: two corruptions at once",
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


def _show_rest(page: Page, config: DemoConfig, data: Labelled, clock: Clock) -> None:
    """What to do next, and what it took."""
    if data.tasks:
        page.section("Any other encoder", "The same subjects and labels are a task of `mdae evaluate`:")
        page.commands(
            f"mdae evaluate --encoder {config.out}/run/model --task {data.tasks[0]} --split {data.split} "
            "--protocol voxels --train-sizes " + " ".join(map(str, data.sizes))
        )
    page.section("On your own scans", "A folder of scans and one of masks of a few of them, and longer:")
    page.commands(
        "mdae demo OUT --source SCANS --masks MASKS\n"
        "mdae prepare SCANS store\n"
        "mdae pretrain store run --network small --steps 20000\n"
        "mdae fit run/model MASKS segmenter --scans SCANS"
    )
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in clock.parts.items())
    page.note(
        f"mdae {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"seed {config.seed}, {config.steps} steps. {parts}; together {sum(clock.parts.values()):.0f} s."
    )
