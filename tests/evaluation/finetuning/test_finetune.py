"""Fine-tuning: rates by layer, the best epoch kept, honest parts, the same twice, and effects found that are there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from torch import Tensor, nn

from mdae.data.preprocess import UNKNOWN
from mdae.data.sources import discover
from mdae.errors import ConfigError, DataError, MDAEError, ModelError, ScanError, TrainingError
from mdae.evaluation.features.backbone import backbone_of
from mdae.evaluation.features.cache import FeatureCache
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.finetuning import finetune
from mdae.evaluation.finetuning.config import FinetuneOptions
from mdae.evaluation.finetuning.finetune import (
    Study,
    cross_validate_finetune,
    cut_validation,
    fit_and_score,
    hold_out_finetune,
)
from mdae.evaluation.finetuning.inputs import CachedInputs, InputExtractor
from mdae.evaluation.finetuning.labels import labels_of
from mdae.evaluation.finetuning.loop import Epoch, Finetuner
from mdae.evaluation.finetuning.model import FinetuneModel, layerwise
from mdae.evaluation.probing.estimators import LINEAR, logistic_model
from mdae.evaluation.probing.multiclass import macro_area
from mdae.interop.backbone import Backbone
from mdae.networks import StageEncoder
from mdae.networks.unet import ResidualUNet, UNetConfig
from mdae.options import AugmentOptions
from mdae.seeding import numpy_generator, torch_generator

SIDE = 8
PARTS = np.array(["train"] * 4 + ["val"] * 2 + ["test"] * 4)  # of ten rows
PLAIN = AugmentOptions()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: two threads that wait for each other on shared cores are many times slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Volumes:
    """Inputs in memory."""

    def __init__(self, volumes: np.ndarray, fingerprint: str = "volumes") -> None:
        self.volumes, self.shape, self.fingerprint = volumes, volumes.shape, fingerprint

    def __getitem__(self, row: int, /) -> np.ndarray:
        return self.volumes[row]


def backbone(network: StageEncoder) -> Backbone:
    def unused(*_: object) -> None:
        raise AssertionError("nothing is prepared here")

    return Backbone(
        name="small",
        identity="small 0",
        network=network,
        preprocessing={},
        prepare=unused,  # type: ignore[arg-type]
        to_input=unused,  # type: ignore[arg-type]
        patch=(SIDE, SIDE, SIDE),
    )


def small() -> Backbone:
    """Our own encoder of two stages; 3 groups, 12 features."""
    config = UNetConfig(features=(4, 8), blocks=(1, 1))
    encoder = ResidualUNet(config, generator=torch_generator(0, "weights")).at(0.0).encoder
    return backbone(encoder)


class Foreign(StageEncoder):
    """The manner of others: batch normalisation, dropout within, its first layers in no module of their own."""

    in_channels, widths = 1, (5,)
    first_conv = "conv1"

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(1, 6, 3, padding=1), nn.BatchNorm3d(6)
        self.body = nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.Conv3d(6, 5, 3, padding=1))
        generator = torch_generator(1, "weights")
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.body(self.bn1(self.conv1(x)))]

    def groups(self) -> list[nn.Module]:
        return [nn.ModuleList([self.conv1, self.bn1]), self.body]


def foreign() -> Backbone:
    return backbone(Foreign())


def striped(
    num: int, *, contrasts: int = 1, strength: float = 0.7, seed: int = 0, axes: tuple[int, ...] = (2, 0)
) -> tuple[Volumes, np.ndarray]:
    """Noise with stripes along an axis a label, the last for 0 and the first for 1: no mean or variance tells."""
    rng = numpy_generator(seed, "stripes")
    labels = np.arange(num) % len(axes)
    volumes = rng.standard_normal((num, contrasts, SIDE, SIDE, SIDE))
    phases = rng.uniform(0, 2 * np.pi, num)
    for volume, label, phase in zip(volumes, labels, phases, strict=True):
        wave = strength * np.sqrt(2) * np.sin(np.pi / 2 * np.arange(SIDE) + phase)
        volume += np.expand_dims(wave, [axis for axis in range(3) if axis != axes[label]])
    return Volumes(volumes.astype(np.float16)), labels


def options(**changes: object) -> FinetuneOptions:
    quick = {"epochs": 3, "lr": 3e-3, "head_lr": 3e-3, "patience": 50, "at_once": 8, **changes}
    return FinetuneOptions(**quick)  # type: ignore[arg-type]


def study(volumes: Volumes, labels: np.ndarray, **changes: object) -> Study:
    """A study of rows that are a subject each."""
    fields = {
        "make_backbone": small,
        "inputs": volumes,
        "labels": labels,
        "subjects": np.array([f"{row:03d}" for row in range(len(labels))]),
        "options": options(),
        "device": "cpu",
        **changes,
    }
    return Study(**fields)  # type: ignore[arg-type]


def finetuner(made: Backbone, volumes: Volumes, labels: np.ndarray, **changes: object) -> Finetuner:
    parts = np.resize(PARTS, len(labels))
    rows = {"train": np.flatnonzero(parts == "train"), "val": np.flatnonzero(parts == "val")}
    changed, num_classes = options(**changes), int(labels.max()) + 1
    how = {"learned": labels_of(labels[rows["train"]], num_classes, changed), "options": changed}
    return Finetuner(made, volumes, labels, **rows, **how, device=torch.device("cpu"), seed=0)  # type: ignore[arg-type]


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def area(labels: np.ndarray, scores: np.ndarray) -> float:
    return LINEAR.quality(labels, scores)


# -- learning ---------------------------------------------------------------------------------------------------


def test_three_classes_are_told_by_what_no_probe_sees():
    """Stripes along each of the axes; the probe's features hold means alone."""
    volumes, labels = striped(60, axes=(2, 0, 1))
    parts = np.resize(PARTS, 60)
    how = {"num_classes": 3, "options": options(epochs=12, augment=PLAIN)}
    scored = fit_and_score(study(volumes, labels, **how), parts)
    tested = parts == "test"
    assert scored.scores.shape == scored.probabilities.shape == (60, 3)
    assert macro_area(labels[tested], scored.scores[tested]) > 0.9 and np.isnan(scored.scores[~tested]).all()
    assert scored.probabilities[tested].sum(axis=1) == pytest.approx(1)
    start = scored.histories[0][0]
    assert scored.histories[0][int(scored.chosen[0])].val_quality > start.val_quality


def test_an_effect_that_no_probe_sees_is_learnt_on_subjects_never_seen():
    volumes, labels = striped(60)
    quick = options(epochs=12, augment=PLAIN)
    scored = cross_validate_finetune(study(volumes, labels, options=quick), folds=3)
    frozen = cross_validate_finetune(study(volumes, labels, options=options(epochs=1, freeze=1)), folds=3)
    assert area(labels, scored.scores) > 0.95 > 0.85 > area(labels, frozen.scores)
    assert ((scored.probabilities > 0.5) == labels).mean() > 0.8
    assert len(scored.histories) == 3 and min(scored.chosen) > 3


def test_noise_is_not_told_from_noise():
    rng = numpy_generator(0, "null")
    labels = np.arange(300) % 2
    volumes = Volumes(rng.standard_normal((300, 1, SIDE, SIDE, SIDE)).astype(np.float16))
    parts = np.array(["train"] * 24 + ["val"] * 12 + ["test"] * 264)
    scored = fit_and_score(study(volumes, labels, options=options(epochs=6)), parts)
    tested = parts == "test"
    assert abs(area(labels[tested], scored.scores[tested]) - 0.5) < 0.11  # three standard errors
    assert np.isnan(scored.scores[~tested]).all() and np.isfinite(scored.scores[tested]).all()


def test_a_number_is_learnt_in_its_own_unit():
    rng = numpy_generator(0, "ages")
    ages = rng.uniform(20, 80, 100)
    volumes = np.stack([striped(2, strength=age / 30, seed=row)[0][1] for row, age in enumerate(ages)])
    parts = np.resize(PARTS, 100)
    how = {"num_classes": 0, "options": options(epochs=15, augment=PLAIN)}
    scored = fit_and_score(study(Volumes(volumes), ages, **how), parts)
    truth, said = ages[parts == "test"], scored.scores[parts == "test"]
    slope, _ = np.polyfit(truth, said, 1)
    assert 0.5 < slope < 1.2 and np.corrcoef(truth, said)[0, 1] > 0.8
    assert np.abs(said - truth).mean() < 0.6 * np.abs(truth - ages.mean()).mean()
    assert np.isnan(scored.probabilities).all()
    (history,) = scored.histories
    assert history[int(scored.chosen[0])].val_quality > history[0].val_quality


def test_several_contrasts_join():
    """What only the second contrast holds is found, by either fusion."""
    second, labels = striped(60, strength=1.5)
    first = numpy_generator(1, "noise").standard_normal(second.shape)
    both = Volumes(np.concatenate([first, second.volumes], axis=1).astype(np.float16))
    parts = np.resize(PARTS, 60)
    for fusion in ("late", "early"):
        quick = options(epochs=8, fusion=fusion, augment=PLAIN)
        scored = fit_and_score(study(both, labels, options=quick), parts)
        assert area(labels[parts == "test"], scored.scores[parts == "test"]) > 0.9, fusion


@pytest.mark.parametrize("balanced", [True, False])
def test_who_sees_nothing_says_the_share_of_positives(balanced):
    labels = (np.arange(40) % 4 == 0).astype(int)
    parts = np.repeat(["train", "val", "test"], [24, 8, 8])
    nothing = Volumes(np.zeros((40, 1, SIDE, SIDE, SIDE), np.float16))
    scored = fit_and_score(study(nothing, labels, options=options(balanced=balanced, head_lr=3e-2)), parts)
    np.testing.assert_allclose(scored.scores[32:], 0, atol=0.15)
    np.testing.assert_allclose(scored.probabilities[32:], 0.25, atol=0.03)
    assert all(epoch.train_loss < 1 for epoch in scored.histories[0]), (
        "features that never varied are blown up"
    )


# -- rates, epochs and freezing -----------------------------------------------------------------------------------


def test_each_layer_moves_at_its_own_rate():
    """The first step of Adam moves a weight by its learning rate, so that the movement is the rate."""
    volumes, labels = striped(10)
    made = small()
    for name, parameter in made.network.named_parameters():
        if name.endswith("conv2.norm.weight"):
            nn.init.ones_(parameter)  # blocks begin as identities, whose first convolutions have no gradient
    rates = {"lr": 1e-3, "layer_decay": 0.5, "head_lr": 7e-3, "warmup": 0.0, "weight_decay": 0.0}
    tuner = finetuner(made, volumes, labels, **rates, epochs=1, dropout=0.0)
    tuner._start()
    before = snapshot(tuner.model)
    after: dict[str, Tensor] = {}
    tuner.fit(lambda _: after.update(snapshot(tuner.model)))
    expected = {"stem": 0.25e-3, "stages.0": 0.5e-3, "stages.1": 1e-3}
    for name, _ in made.network.named_parameters():
        if name.endswith("conv.bias"):
            continue  # before a normalisation it has no effect
        rate = next(value for part, value in expected.items() if name.startswith(f"{part}."))
        moved = float((after[f"network.{name}"] - before[f"network.{name}"]).abs().max())
        assert moved == pytest.approx(rate, rel=1e-2), name
    moved = float((after["head.weight"] - before["head.weight"]).abs().max())
    assert moved == pytest.approx(7e-3, rel=1e-2)


def test_one_odd_scan_cannot_undo_the_others():
    """Adam's first moment after a step is a tenth of the gradient that it was given, whose norm is 1 at most."""
    volumes, labels = striped(10)
    tuner = finetuner(small(), volumes, labels, epochs=1)
    tuner._start()
    with torch.no_grad():
        tuner.model.head.weight *= 1e4
    tuner._epoch(1)
    moments = [state["exp_avg"] for state in tuner.optimiser.state.values()]
    norm = float(torch.cat([moment.flatten() for moment in moments]).norm())
    assert norm == pytest.approx(0.1, rel=1e-3)


def test_rates_warm_up_and_fall_to_nothing():
    volumes, labels = striped(10)
    tuner = finetuner(small(), volumes, labels, epochs=10, warmup=0.3, lr=1.0, layer_decay=0.5)
    seen = []
    for step in (0, 2, 3, 9):
        tuner._set_rates(step)
        seen.append([group["lr"] / group["peak"] for group in tuner.optimiser.param_groups])
    assert [len(set(np.round(row, 9))) for row in seen] == [1, 1, 1, 1]
    assert [row[0] for row in seen[:3]] == pytest.approx([1 / 3, 1.0, 1.0]) and seen[3][0] < 0.1


def test_every_parameter_has_one_rate_and_matrices_alone_decay():
    made = foreign().network
    head = nn.Linear(5, 1)
    groups = layerwise(made, head, options(weight_decay=0.1))
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in [*made.parameters(), *head.parameters()])
    assert all((p.dim() > 1) == (group["weight_decay"] == 0.1) for group in groups for p in group["params"])
    made.extra = nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"each parameter once.*Foreign\.groups"):
        layerwise(made, head, options())


def test_the_best_epoch_is_restored_and_patience_ends():
    rng = numpy_generator(3, "null")
    volumes = Volumes(rng.standard_normal((60, 1, SIDE, SIDE, SIDE)).astype(np.float16))
    tuner = finetuner(small(), volumes, rng.permutation(np.arange(60) % 2), epochs=30, patience=4)
    states: dict[int, dict[str, Tensor]] = {}
    epochs, best = tuner.fit(lambda epoch: states.update({epoch.epoch: snapshot(tuner.model)}))
    assert 0 < best < epochs[-1].epoch == best + 4 < 30
    assert best == max(epochs, key=lambda epoch: (epoch.val_quality, -epoch.val_loss)).epoch
    for name, value in snapshot(tuner.model).items():
        assert torch.equal(value, states[best][name]), name
    assert any(not torch.equal(states[best][name], states[epochs[-1].epoch][name]) for name in states[best])
    assert area(tuner.targets[tuner.val], tuner.outputs(tuner.val)) == epochs[best].val_quality


def test_epoch_zero_is_the_probe():
    """The head, on features standardised in another way, says what the chosen linear model says."""
    volumes, labels = striped(60)
    tuner = finetuner(small(), volumes, labels)
    train, val = tuner._features(tuner.train), tuner._features(tuner.val)
    probes = [LINEAR.fit(train, labels[tuner.train], candidate) for candidate in LINEAR.candidates]
    said = [probe(val) for probe in probes]
    best = max(said, key=lambda scores: area(labels[tuner.val], scores))
    start = tuner._start()
    np.testing.assert_allclose(tuner.outputs(tuner.val), best, atol=1e-4)
    assert start.epoch == 0 and start.val_quality == area(labels[tuner.val], best)


def test_epoch_zero_of_three_classes_is_the_multinomial_probe():
    """What scikit-learn's softmax says of the chosen penalty's model."""
    volumes, labels = striped(60)
    labels = np.where(np.arange(60) % 5 == 0, 2, labels)
    tuner = finetuner(small(), volumes, labels)
    train, val = tuner._features(tuner.train), tuner._features(tuner.val)
    start = tuner._start()
    found = softmax(tuner.outputs(tuner.val), axis=1)
    models = [logistic_model(strength).fit(train, labels[tuner.train]) for strength in LINEAR.candidates]
    said = [model.predict_proba(val) for model in models]
    qualities = [macro_area(labels[tuner.val], one) for one in said]
    np.testing.assert_allclose(found, said[int(np.argmax(qualities))], atol=1e-4)
    assert start.val_quality == pytest.approx(max(qualities))


@pytest.mark.parametrize("make", [small, foreign])
def test_a_frozen_encoder_stays_bit_for_bit(make: Callable[[], Backbone]):
    volumes, labels = striped(20)
    tuner = finetuner(make(), volumes, labels, epochs=3, freeze=3, weight_decay=0.5)
    before = snapshot(tuner.model)
    heads: list[Tensor] = []
    tuner.fit(lambda _: heads.append(tuner.model.head.weight.detach().clone()))
    assert not torch.equal(heads[0], heads[-1])
    for name, value in tuner.model.network.state_dict().items():
        assert torch.equal(value, before[f"network.{name}"]), name


def test_after_the_freeze_the_encoder_learns():
    volumes, labels = striped(20)
    tuner = finetuner(foreign(), volumes, labels, epochs=2, freeze=1)
    states = [snapshot(tuner.model.network)]
    tuner.fit(lambda _: states.append(snapshot(tuner.model.network)))
    assert torch.equal(states[0]["conv1.weight"], states[1]["conv1.weight"])
    assert not torch.equal(states[1]["conv1.weight"], states[2]["conv1.weight"])
    assert torch.equal(states[2]["bn1.running_mean"], states[0]["bn1.running_mean"]), (
        "batch statistics crept in"
    )


# -- parts --------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3)), min_size=24, max_size=40),
    st.sampled_from([2, 0]),
    st.integers(0, 3),
)
def test_nobody_is_in_two_parts_and_everybody_is_tested_once(people, num_classes, seed):
    """People with several sessions each."""
    if min(sum(label == value for label, _ in people) for value in (0, 1)) < 6:
        people = [(index % 2, sessions) for index, (_, sessions) in enumerate(people)]
    subjects = np.array([f"{i}" for i, (_, sessions) in enumerate(people) for _ in range(sessions)])
    labels = np.array([label for label, sessions in people for _ in range(sessions)])
    if not num_classes:
        labels = labels + numpy_generator(seed, "ages").standard_normal(len(labels))
    volumes = Volumes(np.zeros((len(labels), 1, 2, 2, 2)))
    seen: list[np.ndarray] = []

    def record(_: Study, parts: np.ndarray, **__: object) -> finetune.Finetuned:
        seen.append(parts)
        scores = np.where(parts == "test", 1.0, np.nan)
        return finetune.Finetuned(scores, scores, [0.0], [[]])

    with mock.patch.object(finetune, "fit_and_score", record):
        scored = cross_validate_finetune(
            study(volumes, labels, subjects=subjects, num_classes=num_classes), folds=3, repeats=2, seed=seed
        )
    assert (scored.scores == 1).all() and len(seen) == 6
    assert (np.sum([parts == "test" for parts in seen], axis=0) == 2).all()
    for parts in seen:
        assert set(parts) == {"train", "val", "test"}
        assert all(len(set(parts[subjects == name])) == 1 for name in set(subjects))
        if num_classes:
            assert all(set(labels[parts == name]) == {0, 1} for name in ("train", "val", "test"))


def test_a_given_split_is_kept_and_a_missing_val_is_cut_from_train_alone():
    volumes, labels = striped(40)
    s = study(volumes, labels)
    parts = np.repeat(["train", "test", ""], [30, 8, 2])
    cut = cut_validation(s, parts, 0)
    assert (cut[30:] == parts[30:]).all() and (cut == "val").sum() == 6 and labels[cut == "val"].sum() == 3
    scored = hold_out_finetune(s, parts, repeats=2)
    assert np.isfinite(scored.scores[30:38]).all() and np.isnan(np.delete(scored.scores, range(30, 38))).all()
    given = np.repeat(["train", "val", "test"], [20, 10, 10])
    first, second = (hold_out_finetune(s, given, seed=seed).scores for seed in (0, 1))
    one, other = hold_out_finetune(s, given, repeats=2).histories
    assert not np.array_equal(first[30:], second[30:]) and one[1:] != other[1:] and one[0] == other[0]


@pytest.mark.parametrize("num_classes", [2, 3, 0])
@pytest.mark.parametrize("balanced", [True, False])
def test_the_test_part_has_no_influence(num_classes, balanced):
    volumes, labels = striped(40)
    labels = np.where(np.arange(40) % 8 < 2, 2, labels) if num_classes == 3 else labels
    parts = np.resize(PARTS, 40)
    rows = np.flatnonzero(parts == "test")
    how = {"num_classes": num_classes, "options": options(balanced=balanced)}
    scored = fit_and_score(study(volumes, labels, **how), parts)
    turned = np.where(parts == "test", 1, labels)
    again = fit_and_score(study(volumes, turned, **how), parts)
    assert np.array_equal(again.scores, scored.scores, equal_nan=True)
    assert np.array_equal(again.probabilities, scored.probabilities, equal_nan=True)
    assert again.histories == scored.histories
    other = volumes.volumes.copy()
    other[rows[1:]] = 0
    found = fit_and_score(study(Volumes(other), turned, **how), parts).scores
    assert np.array_equal(found[rows[0]], scored.scores[rows[0]])


# -- fusion -------------------------------------------------------------------------------------------------------


def test_one_contrast_is_the_network_itself_whatever_the_fusion():
    volumes, labels = striped(20)
    x = torch.from_numpy(volumes.volumes).float()
    model = FinetuneModel(small(), 1, 1, "late", 4)
    with torch.no_grad():
        assert torch.equal(model.features(x[:4]), small().network.features(x[:4]))
    late, early = (
        fit_and_score(study(volumes, labels, options=options(fusion=fusion)), np.resize(PARTS, 20)).scores
        for fusion in ("late", "early")
    )
    assert np.array_equal(late, early, equal_nan=True)


def test_late_fusion_puts_features_of_each_contrast_side_by_side():
    x = torch.randn(3, 2, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    network = small().network
    with torch.no_grad():
        expected = torch.cat([network.features(x[:, :1]), network.features(x[:, 1:])], dim=1)
        torch.testing.assert_close(FinetuneModel(small(), 2, 1, "late", 4).features(x), expected)


@pytest.mark.parametrize("make", [small, foreign])
def test_early_fusion_of_equal_contrasts_starts_from_the_same_features(make: Callable[[], Backbone]):
    x = torch.randn(2, 1, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    model = FinetuneModel(make(), 3, 1, "early", 4)
    with torch.no_grad():
        expected = make().network.eval().features(x)
        torch.testing.assert_close(
            model.features(x.expand(-1, 3, -1, -1, -1)), expected, rtol=1e-4, atol=1e-5
        )
    assert model.network.in_channels == 3
    assert layerwise(model.network, nn.Linear(1, 1), options()), "the groups hold the old stem"


def several() -> Backbone:
    """Pre-trained on two contrasts at once."""
    network = small().network
    network.widen(2)
    return replace(backbone(network), channels=("T1w", "FLAIR"))


@pytest.mark.parametrize("fusion", ["late", "early"])
def test_an_encoder_of_several_contrasts_sees_them_in_one_pass(fusion):
    x = torch.randn(3, 2, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    model = FinetuneModel(several(), 2, 1, fusion, 4)
    with torch.no_grad():
        assert torch.equal(model.features(x), several().network.features(x))
    assert model.num_features == 12


def test_a_contrast_that_is_lacking_stays_so_whatever_the_augmentation():
    volumes, labels = striped(10, contrasts=2)
    volumes.volumes[3, 1] = UNKNOWN
    bright = AugmentOptions(gain=0.5, shift=0.5, gamma=0.5, rotate_deg=10.0)
    tuner = finetuner(several(), volumes, labels, augment=bright)
    x = torch.from_numpy(volumes.volumes).float()
    changed = tuner._augmented(x, 1, range(10))
    assert (changed[3, 1] == UNKNOWN).all()
    others = [own for row in range(10) for own in changed[row, : 1 if row == 3 else 2]]
    assert all((own != UNKNOWN).all() for own in others)
    assert len(tuner.fit()[0]) > 1


def test_fewer_volumes_at_once_give_the_same():
    """Micro-batches of subjects, and activations computed again within one, are for memory alone."""
    volumes, labels = striped(20, contrasts=3)
    found = [
        fit_and_score(study(volumes, labels, options=options(at_once=number)), np.resize(PARTS, 20))
        for number in (12, 3, 1)
    ]
    for less in found[1:]:
        np.testing.assert_allclose(less.scores, found[0].scores, atol=2e-3)
        for epoch, expected in zip(less.histories[0], found[0].histories[0], strict=True):
            assert epoch.train_loss == pytest.approx(expected.train_loss, abs=1e-3)


# -- the same twice -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [small, foreign])
def test_the_same_seed_gives_the_same_whatever_the_global_one(make: Callable[[], Backbone]):
    volumes, labels = striped(20)
    found = []
    for noise, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(noise)
        np.random.seed(noise)  # noqa: NPY002
        found.append(
            fit_and_score(study(volumes, labels, make_backbone=make), np.resize(PARTS, 20), seed=seed)
        )
    same, again, other = found
    assert np.array_equal(same.scores, again.scores, equal_nan=True)
    assert same.histories == again.histories and same.histories != other.histories


def test_augmentation_and_dropout_are_of_training_alone():
    volumes, labels = striped(20)
    parts = np.resize(PARTS, 20)

    def history(**changes: object) -> list[Epoch]:
        return fit_and_score(study(volumes, labels, options=options(**changes)), parts).histories[0]

    plain = history(augment=PLAIN, dropout=0.0)
    for changes in ({"augment": PLAIN, "dropout": 0.5}, {"dropout": 0.0}):
        assert history(**changes)[0] == plain[0] and history(**changes)[1] != plain[1], changes


def test_a_killed_run_goes_on_after_its_finished_fits(tmp_path):
    volumes, labels = striped(24)
    calls = []

    def killed_at_the_third() -> Backbone:
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return small()

    def run(make: Callable[[], Backbone], kept: Path) -> finetune.Finetuned:
        s = study(volumes, labels, make_backbone=make, options=options(epochs=1), kept=kept)
        return cross_validate_finetune(s, folds=2, repeats=2)

    undisturbed = run(small, tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        run(killed_at_the_third, tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 2
    resumed = run(killed_at_the_third, tmp_path / "kept")
    assert len(calls) == 3 + 2, "a finished fit was repeated, or an unfinished one was not"
    for name in ("scores", "probabilities"):
        assert np.array_equal(getattr(resumed, name), getattr(undisturbed, name))
    assert (resumed.chosen, resumed.histories) == (undisturbed.chosen, undisturbed.histories)
    next((tmp_path / "kept").iterdir()).write_text('{"scores": [')
    assert np.array_equal(run(killed_at_the_third, tmp_path / "kept").scores, undisturbed.scores)
    assert len(calls) == 3 + 2 + 1, "a damaged file was taken, or more than it repeated"


def test_other_scans_labels_or_options_are_another_fit(tmp_path):
    volumes, labels = striped(20)
    parts = np.resize(PARTS, 20)
    base = study(volumes, labels, kept=tmp_path)
    paths = {
        finetune._path(s, p, seed)
        for s, p, seed in (
            (base, parts, 0),
            (base, parts, 1),
            (base, np.roll(parts, 1), 0),
            (study(Volumes(volumes.volumes, "others"), labels, kept=tmp_path), parts, 0),
            (study(volumes, 1 - labels, kept=tmp_path), parts, 0),
            (study(volumes, labels, kept=tmp_path, options=options(lr=1e-4)), parts, 0),
        )
    }
    assert len(paths) == 6
    same = study(volumes, labels, kept=tmp_path, options=options(at_once=1))
    assert finetune._path(same, parts, 0) in paths


# -- inputs -------------------------------------------------------------------------------------------------------


def test_scans_are_prepared_once_and_read_a_subject_at_a_time(model, cohort, tmp_path):
    made = backbone_of(Encoder.load(model), "model", "identity")
    cache = FeatureCache(tmp_path, InputExtractor(made))
    scans = discover(cohort)[:4]
    assert not cache.fill(scans, workers=1)
    inputs = CachedInputs([[cache.path(scan) for scan in pair] for pair in (scans[:2], scans[2:])])
    assert inputs.shape == (2, 2, *made.patch)
    expected = np.stack([made.to_input(made.prepare(scan)) for scan in scans[2:]]).astype(np.float16)
    assert np.array_equal(inputs[1], expected) and inputs[1].dtype == np.float16
    with mock.patch.object(made, "prepare", side_effect=AssertionError("prepared again")):
        FeatureCache(tmp_path, InputExtractor(made)).fill(scans)
    turned = CachedInputs([[cache.path(scan) for scan in pair] for pair in (scans[2:], scans[:2])])
    assert turned.fingerprint != inputs.fingerprint
    for damage in (b"", cache.path(scans[3]).read_bytes()[:-1]):
        cache.path(scans[3]).write_bytes(damage)
        with pytest.raises(DataError, match="gone from the cache"):
            inputs[1]
        cache.fill(scans)
        assert np.array_equal(inputs[1], expected)


def test_an_input_that_is_not_finite_is_set_aside(model, cohort, tmp_path):
    made = backbone_of(Encoder.load(model), "model", "identity")
    made.to_input = lambda prepared: np.full(made.patch, 1e6, np.float32)  # beyond float16
    scan = discover(cohort)[0]
    failed = FeatureCache(tmp_path, InputExtractor(made)).fill([scan])
    assert isinstance(failed[str(scan.path)], ScanError) and "not finite" in failed[str(scan.path)].what


# -- one line for what cannot be done -----------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo[MDAEError]) -> bool:
    return "\n" not in str(error.value) and error.value.mend is not None


@pytest.mark.parametrize("row", [0, 4, 6])
def test_nan_in_a_scan_of_any_part_is_one_line(row):
    volumes, labels = striped(20)
    volumes.volumes[row, 0, 3, 3, 3] = np.nan
    with pytest.raises(TrainingError, match=rf"subject number {row + 1} is not finite") as error:
        fit_and_score(study(volumes, labels), np.resize(PARTS, 20))
    assert one_line(error)


@pytest.mark.parametrize("rates", [{"lr": 1e30}, {"head_lr": 1e38}])
def test_an_absurd_learning_rate_is_one_line(rates):
    volumes, labels = striped(20)
    line = r"the loss of step \d of epoch 1 is not finite .*lower --finetune.lr"
    with pytest.raises(TrainingError, match=line) as error:
        fit_and_score(study(volumes, labels, options=options(**rates)), np.resize(PARTS, 20))
    assert one_line(error)


def test_too_little_memory_is_one_line():
    class Greedy(Foreign):
        def forward(self, x: Tensor) -> list[Tensor]:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    volumes, labels = striped(20)
    with pytest.raises(ConfigError, match=r"does not hold 8 volumes.*--finetune.at-once 1") as error:
        fit_and_score(study(volumes, labels, make_backbone=lambda: backbone(Greedy())), np.resize(PARTS, 20))
    assert one_line(error)


def test_parts_that_cannot_be_trained_on_are_one_line():
    volumes, labels = striped(20)
    for labels_now, parts, line in (
        (labels, np.where(PARTS == "val", "", PARTS), "none to stop by"),
        (labels * 0, PARTS, "one class"),
        (labels, PARTS, "of 2 of 3 classes"),
    ):
        with pytest.raises(DataError, match=line) as error:
            of = 3 if "3" in line else 2
            fit_and_score(study(volumes, labels_now, num_classes=of), np.resize(parts, 20))
        assert one_line(error)
    few = study(volumes, np.eye(1, 20, dtype=int)[0])
    with pytest.raises(DataError, match="too few subjects") as error:
        cut_validation(few, np.full(20, "train"), 0)
    assert one_line(error)


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"warmup": 1.0}, {"lr": 0.0}, {"layer_decay": 1.1}, {"freeze": -1}, {"dropout": 1.0}],
)
def test_options_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=re.escape(name)) as error:
        FinetuneOptions(**wrong)
    assert one_line(error)


def test_options_need_no_torch():
    check = "import sys, mdae.evaluation.finetuning.config; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "False"
