"""The whole catalogue, from the layouts of the downloads to the leaderboard, on made-up subjects."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

pytest.importorskip("nnunetv2")

from mdae.cli import main
from mdae.data.preprocess import Preprocessing
from mdae.networks import preset
from mdae.networks.saved import SavedModel, save_model
from mdae.seeding import torch_generator
from mdae.tasks.catalogue import CATALOGUE
from mdae.tasks.record import FUSED
from tests.tasks.trees import TREES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with every data set as it unpacks, and two models at a coarse spacing."""
    folder = tmp_path_factory.mktemp("catalogue")
    for name, make in TREES.items():
        make(folder / "data" / name)
    for name, seed in (("first", 0), ("second", 1)):
        network = preset("tiny").new(torch_generator(seed, "weights")).eval()
        contract = Preprocessing(spacing_mm=(8.0, 8.0, 8.0))
        save_model(folder / name / "model", SavedModel(network, contract, (16, 16, 16)))
    return folder


def evaluate(world: Path, encoder: str, tasks: list[str], layout: str, *options: str) -> None:
    root = world / "data" / layout
    where = ["--data", str(root), "--out", str(world / "results"), "--cache", str(world / "cache")]
    main(
        [
            "evaluate",
            "--encoder",
            encoder,
            "--task",
            *tasks,
            *where,
            "--device",
            "cpu",
            "--folds",
            "3",
            *options,
        ]
    )


def test_every_task_from_download_to_leaderboard(world, capsys):
    encoders = ["histogram", str(world / "first" / "model"), str(world / "second" / "model")]
    by_layout: dict[str, list[str]] = {}
    for task in CATALOGUE:
        if task.kind != "segmentation":
            by_layout.setdefault(task.layout, []).append(task.name)
    for encoder in encoders:
        for layout, tasks in by_layout.items():
            evaluate(world, encoder, tasks, layout, "--repeats", "1")
    short = ["--segment.epochs", "1", "--segment.iterations", "1", "--segment.patch", "16", "16", "16"]
    for encoder in encoders[1:]:
        for task in (task for task in CATALOGUE if task.kind == "segmentation"):
            evaluate(world, encoder, [task.name], task.layout, *short)
    capsys.readouterr()
    main(["leaderboard", str(world / "results"), "--baseline", "histogram", "--out", str(world / "board")])

    found = [json.loads(path.read_text()) for path in (world / "results").glob("*.json")]
    assert {result["task"]["name"] for result in found} == {task.name for task in CATALOGUE}
    for result in found:
        task = next(task for task in CATALOGUE if task.name == result["task"]["name"])
        fused = [FUSED] if len(task.contrasts) > 1 else []
        expected = fused if task.kind == "segmentation" else [*task.contrasts, *fused]
        assert [one["modality"] for one in result["results"]] == expected
        for one in result["results"]:
            assert one["refused"] == "" and task.metric in one["scores"]
            assert len(set(one["subjects"])) == len(one["subjects"]) >= 9
    with (world / "board" / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["task"] for row in rows} >= {task.name for task in CATALOGUE}
    page = (world / "board" / "index.html").read_text()
    assert "Published, not measured here" in page and "brats18-seg" in page
