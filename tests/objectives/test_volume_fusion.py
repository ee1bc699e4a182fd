"""Volume Fusion: boxes, coefficients, mixture and loss against slow readings of the paper."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mdae.errors import ConfigError
from mdae.networks.unet import ResidualUNet, UNetConfig
from mdae.objectives import build_objective
from mdae.objectives.volume_fusion import (
    VolumeFusion,
    VolumeFusionConfig,
    _draw_boxes,
    fuse,
    segmentation_terms,
)
from mdae.seeding import torch_generator
from tests.contract import losses_of_training

SHAPE = (12, 20, 16)


def generators(number: int) -> list[torch.Generator]:
    return [torch_generator(0, "boxes", index) for index in range(number)]


def volumes(number: int = 3, channels: int = 1, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return torch.randn((number, channels, *shape), generator=torch_generator(0, "volumes"))


def objective(channels: int = 1, **changes: object) -> VolumeFusion:
    net = ResidualUNet(UNetConfig(in_channels=channels, features=(4, 6, 8), blocks=(1, 1, 1), time_dim=8))
    built = build_objective("volume-fusion", net, changes=changes)
    assert isinstance(built, VolumeFusion)
    return built


def test_classes_are_boxes_painted_one_over_the_other():
    """The first of up to 40 boxes lie below the later ones; outside of all the class is 0."""
    built = objective()
    classes = built.draw_classes(SHAPE, generators(4))
    assert classes.shape == (4, 1, *SHAPE) and set(classes.unique().tolist()) <= set(range(5))
    low, high = (
        tuple(round(share * side) for side in SHAPE)
        for share in (built.config.side_min, built.config.side_max)
    )
    for sample, generator in zip(classes[:, 0].numpy(), generators(4), strict=True):
        start, stop, colours = (
            part.numpy() for part in _draw_boxes(built.config, low, high, SHAPE, generator)
        )
        expected = np.zeros(SHAPE, dtype=int)
        for a, b, colour in zip(start, stop, colours, strict=True):
            expected[a[0] : b[0], a[1] : b[1], a[2] : b[2]] = colour
        assert np.array_equal(sample, expected)


def test_boxes_have_the_number_the_sides_and_the_classes_that_were_asked_for():
    config = VolumeFusionConfig(levels=3, boxes_min=2, boxes_max=5, side_min=0.25, side_max=0.5)
    numbers, classes = set(), set()
    for generator in generators(100):
        start, stop, colours = _draw_boxes(config, (3, 5, 4), (6, 10, 8), SHAPE, generator)
        size = stop - start
        number = int((size > 0).all(1).sum())
        assert not size[number:].any(), "the first ones are there, the others are empty"
        numbers.add(number)
        classes |= set(colours.tolist())
        assert (size[:number] >= torch.tensor([3, 5, 4])).all() and (stop <= torch.tensor(SHAPE)).all()
        assert (size <= torch.tensor([6, 10, 8])).all() and (start >= 0).all()
    assert numbers == {2, 3, 4, 5} and classes == {1, 2, 3}


def test_the_mixture_is_the_papers_equation_voxel_by_voxel():
    background, foreground = volumes(2, 2), volumes(2, 2).flip(0) * 3
    classes = torch.randint(5, (2, 1, *SHAPE), generator=torch_generator(0, "classes"))
    mixed = fuse(background, foreground, classes, 4)
    for b, c, x, y, z in itertools.product(range(2), range(2), (0, 5, 11), (0, 7, 19), range(16)):
        alpha = classes[b, 0, x, y, z].item() / 4
        expected = alpha * foreground[b, c, x, y, z].item() + (1 - alpha) * background[b, c, x, y, z].item()
        assert mixed[b, c, x, y, z].item() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(mixed[(classes == 0).expand_as(mixed)], background[(classes == 0).expand_as(mixed)])
    whole = (classes == 4).expand_as(mixed)
    torch.testing.assert_close(mixed[whole], foreground[whole])


def slow_terms(logits: np.ndarray, classes: np.ndarray, counted: np.ndarray) -> tuple[float, float]:
    """Cross entropy and mean soft Dice of one sample (K, ...) over its counted voxels, in double precision."""
    scores = logits.astype(np.float64)[:, counted].T
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    truth = classes[counted]
    cross_entropy = -np.mean([np.log(row[k]) for row, k in zip(p, truth, strict=True)])
    dice = []
    for k in range(len(logits)):
        both = p[truth == k, k].sum()
        dice.append((2 * both + 1e-5) / (p[:, k].sum() + (truth == k).sum() + 1e-5))
    return float(cross_entropy), float(np.mean(dice))


@pytest.mark.parametrize("share", [1.0, 0.7])
def test_the_terms_match_a_slow_reading_also_where_a_class_is_absent(share):
    logits = torch.randn(3, 5, 4, 5, 6, generator=torch_generator(0, "logits"))
    classes = torch.randint(4, (3, 1, 4, 5, 6), generator=torch_generator(0, "classes"))
    counted = torch.rand(3, 1, 4, 5, 6, generator=torch_generator(0, "counted")) < share
    cross_entropy, dice = segmentation_terms(logits, classes, None if share == 1 else counted)
    for b in range(3):
        expected = slow_terms(logits[b].numpy(), classes[b, 0].numpy(), counted[b, 0].numpy())
        assert cross_entropy[b].item() == pytest.approx(expected[0], rel=1e-5)
        assert dice[b].item() == pytest.approx(expected[1], rel=1e-5)


def test_a_sample_is_mixed_with_the_one_before_it_and_what_is_unknown_in_either_has_no_loss():
    built, clean = objective(2), volumes(3, 2)
    known = torch.rand(3, 2, *SHAPE, generator=torch_generator(0, "known")) < 0.9
    output = built(clean, generators(3), known)
    classes = built.draw_classes(SHAPE, generators(3))
    losses = []
    mixed = torch.empty_like(clean)
    for b in range(3):
        mixed[b] = fuse(clean[b : b + 1], clean[b - 1 : b or None], classes[b : b + 1], 4)[0]
        mixed[b][~(known[b] & known[b - 1])] = 0
    with torch.no_grad():
        logits = built.predict(mixed).numpy()
    for b in range(3):
        counted = (known[b] & known[b - 1]).any(0).numpy()  # by some contrast
        cross_entropy, dice = slow_terms(logits[b], classes[b, 0].numpy(), counted)
        losses.append(cross_entropy + 1 - dice)
    assert output.loss.item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert output.logs["cross_entropy"] + 1 - output.logs["dice"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_the_head_is_the_objectives_own_and_the_networks_is_frozen():
    built = objective(levels=2)
    assert built.head.out_channels == 3
    built(volumes(), generators(3)).loss.backward()
    without = {name for name, p in built.named_parameters() if p.requires_grad and p.grad is None}
    assert not without
    assert not any(p.requires_grad for p in built.network.decoder.seg_layers.parameters())
    assert not any(name.startswith("head") for name in built.network.state_dict())


def test_the_fold_is_the_encoder_that_was_trained_and_its_loss_falls():
    built = objective(boxes_max=12)
    clean = torch.cat([volumes(2, shape=(8, 12, 8)), 2 + volumes(2, shape=(8, 12, 8)).cumsum(2)])
    losses = losses_of_training(built, clean, generators, 25)
    assert np.mean(losses[-3:]) < 0.85 * np.mean(losses[:3])
    net = built.network
    trained = net.stages(clean, torch.zeros(4))
    for one, other in zip(net.at(0.0).encoder(clean), trained, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_one_volume_alone_cannot_be_mixed():
    with pytest.raises(ConfigError, match="--batch"):
        objective()(volumes(1), generators(1))


@pytest.mark.parametrize(
    "wrong", [{"levels": 0}, {"boxes_min": 0}, {"boxes_min": 9, "boxes_max": 5}, {"side_max": 1.5}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError):
        VolumeFusionConfig(**wrong)
