"""Real nnU-Net, end to end on the CPU: from our weights, resumed, frozen, and scored on unseen subjects."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

pytest.importorskip("nnunetv2")

from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.nnunet.config import SegmentOptions
from mdae.evaluation.nnunet.run import evaluate_segmentation
from mdae.evaluation.nnunet.start import open_start
from mdae.evaluation.nnunet.trainer import SegmentationTrainer
from mdae.evaluation.results.schema import Evaluation
from mdae.evaluation.statistics.overlap import dice
from mdae.tasks.catalogue import find_task
from tests.evaluation.nnunet import made

pytestmark = pytest.mark.slow

PARTS = {"train": range(1, 5), "val": range(5, 6), "test": range(6, 11)}
NAMES = {part: [f"case_{number:02d}" for number in numbers] for part, numbers in PARTS.items()}


@dataclass
class Seen:
    """What nnU-Net did: the weights before its first step, the epochs, and whose patches it was given."""

    first: dict[str, torch.Tensor] | None = None
    epochs: list[int] = field(default_factory=list)
    trained: set[str] = field(default_factory=set)
    validated: set[str] = field(default_factory=set)


@dataclass
class World:
    """A data set, a model, and a folder of results that the tests share."""

    folder: Path
    root: Path
    model: Path
    monkeypatch: pytest.MonkeyPatch

    def evaluate(self, **options: Any) -> Evaluation:
        config = EvaluateConfig(
            encoder=str(self.model),
            task=(str(self.root),),
            data=self.root,
            split=self.folder / "split.csv",
            out=self.folder / "results",
            device="cpu",
            workers=1,
        )
        return evaluate_segmentation(
            find_task(str(self.root)), config, SegmentOptions(epochs=3, iterations=4, **options)
        )

    def watch(self, *, stop_before: int | None = None) -> Seen:
        """Look over nnU-Net's shoulder; a training may be killed before an epoch."""
        seen = Seen()
        start, train, validate = (
            getattr(SegmentationTrainer, name)
            for name in ("on_train_epoch_start", "train_step", "validation_step")
        )

        def on_train_epoch_start(trainer: SegmentationTrainer) -> None:
            if trainer.current_epoch == stop_before:
                raise KeyboardInterrupt
            seen.epochs.append(trainer.current_epoch)
            start(trainer)

        def train_step(trainer: SegmentationTrainer, batch: dict) -> dict:
            if seen.first is None:
                seen.first = {name: value.clone() for name, value in trainer.network.state_dict().items()}
            seen.trained.update(batch["keys"])
            return train(trainer, batch)

        def validation_step(trainer: SegmentationTrainer, batch: dict) -> dict:
            seen.validated.update(batch["keys"])
            return validate(trainer, batch)

        for function in (on_train_epoch_start, train_step, validation_step):
            self.monkeypatch.setattr(SegmentationTrainer, function.__name__, function)
        return seen

    def fold(self) -> Path:
        """The folder that was trained last."""
        found = (self.folder / "results" / "nnunet").glob("*/results/*/*/fold_0")
        return max(found, key=lambda path: path.stat().st_mtime_ns)

    def weights(self) -> dict[str, torch.Tensor]:
        """Those that its training ended with."""
        saved = torch.load(self.fold() / "checkpoint_final.pth", weights_only=False)
        return dict(saved["network_weights"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("segmentation")
    lines = [f"{name},{part}" for part, names in NAMES.items() for name in names]
    (folder / "split.csv").write_text("\n".join(["subject,split", *lines]) + "\n")
    return folder, made.dataset(folder, 10), made.model(folder / "run" / "model")


@pytest.fixture
def world(shared: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small volumes are not worth more
    yield World(*shared, monkeypatch)
    torch.set_num_threads(threads)


def encoders(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: value for name, value in weights.items() if name.startswith(("encoder.", "decoder.encoder."))
    }


def largest_step(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_killed_and_resumed_from_pretrained_weights_to_scores_of_unseen_subjects(world):
    export = open_start(str(world.model)).weights(2)
    before = world.watch(stop_before=2)
    with pytest.raises(KeyboardInterrupt):
        world.evaluate()
    assert before.epochs == [0, 1]
    assert all(torch.equal(before.first[name], value) for name, value in export.items())
    assert before.first["encoder.stem.convs.0.conv.weight"].shape[1] == 2
    assert before.trained <= set(NAMES["train"]) and before.validated <= set(NAMES["val"])

    world.monkeypatch.undo()
    after = world.watch()
    evaluation = world.evaluate()
    assert after.epochs == [2], "it went on from the last checkpoint"
    resumed = world.weights()
    assert largest_step(encoders(resumed), export) > 1e-4, "the encoder has moved"
    check_scores(evaluation)

    world.monkeypatch.undo()
    again = world.watch()
    assert world.evaluate() == evaluation and again.epochs == [], "what is finished is not trained again"

    shutil.rmtree(world.fold())
    world.evaluate()
    moved = largest_step(resumed, {**resumed, **export})
    assert largest_step(resumed, world.weights()) < 0.01 * moved, "as if it had never been killed"


def test_a_model_of_several_contrasts_starts_with_its_channels_in_their_order(world, tmp_path):
    """The data set has T1w before FLAIR, the model FLAIR before T1w: nnU-Net is shown FLAIR first."""
    world.model = made.model(tmp_path / "run" / "model", channels=("FLAIR", "T1w"))
    start, seen = open_start(str(world.model)), world.watch()
    world.evaluate()
    export = start.weights(2)
    assert start.network.in_channels == 2 and start.in_order(made.CHANNELS) == ("FLAIR", "T1w")
    assert all(torch.equal(seen.first[name], value) for name, value in export.items())
    stem = start.network.at(0.0).encoder.stem.convs[0].conv.weight
    assert torch.equal(export["encoder.stem.convs.0.conv.weight"], stem.detach().transpose(2, 4))
    raw = (world.folder / "results" / "nnunet").rglob("raw/*/dataset.json")
    (about,) = (one for path in raw if (one := json.loads(path.read_text()))["channel_names"]["0"] == "FLAIR")
    for case_id, files in about["dataset"].items():
        assert [Path(path).name for path in files["images"]] == [
            f"{case_id}_{n}.nii.gz" for n in ("0001", "0000")
        ]
    assert largest_step(encoders(world.weights()), export) > 1e-4, "the encoder has moved"


def check_scores(evaluation: Evaluation) -> None:
    (result,) = evaluation.results
    assert result.subjects == NAMES["test"] and not result.refused
    assert list(result.values) == [
        "dice",
        "nsd",
        *(f"{f}_{c}" for c in ("outer", "deep") for f in ("dice", "nsd")),
    ]
    for values in result.values.values():
        assert len(values) == len(result.subjects) and all(0 <= value <= 1 for value in values)
    each = np.array([result.values["dice_outer"], result.values["dice_deep"]])
    np.testing.assert_allclose(result.values["dice"], each.mean(axis=0))
    for name, figure in result.scores.items():
        assert figure.low <= figure.value <= figure.high
        assert figure.value == pytest.approx(np.mean(result.values[name]))


def test_a_frozen_encoder_stays_bit_for_bit_and_predictions_lie_on_the_scans_grid(world):
    export = open_start(str(world.model)).weights(2)
    evaluation = world.evaluate(schedule="frozen", lr=0.01)
    trained = world.weights()
    assert all(torch.equal(trained[name], value) for name, value in encoders(export).items())
    decoder = {name: value for name, value in export.items() if name.startswith("decoder.stages")}
    assert decoder and largest_step(decoder, trained) > 1e-4
    check_scores(evaluation)
    (result,) = evaluation.results
    for name, score in zip(result.subjects, result.values["dice_deep"], strict=True):
        there = nib.load(world.root / "labelsTr" / f"{name}.nii.gz")
        ours = nib.load(world.fold() / "test" / f"{name}.nii.gz")
        assert ours.shape == there.shape and np.allclose(ours.affine, there.affine)
        assert nib.aff2axcodes(ours.affine) == ("L", "A", "S")
        one, other = (np.asarray(image.dataobj) == made.LARGE for image in (ours, there))
        assert dice(one, other) == pytest.approx(score)
