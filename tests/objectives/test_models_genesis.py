"""Models Genesis: each distortion against a slow reading of the paper, and what is learned from them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mdae.errors import ConfigError
from mdae.networks.unet import ResidualUNet, UNetConfig
from mdae.objectives import build_objective
from mdae.objectives.distortions import (
    Distortion,
    DistortionConfig,
    along_curve,
    apply,
    bezier_curve,
    draw,
    draw_shuffle,
    to_unit,
)
from mdae.objectives.windows import draw_windows, inside, whole
from mdae.seeding import torch_generator
from tests.contract import losses_of_training

SHAPE = (24, 20, 32)
NEVER = DistortionConfig(shuffle=0.0, nonlinear=0.0, paint=0.0, outside=0.0)


def generator(index: int = 0, purpose: str = "draw") -> torch.Generator:
    return torch_generator(0, purpose, index)


def generators(number: int) -> list[torch.Generator]:
    return [generator(index) for index in range(number)]


def volumes(number: int = 2, channels: int = 1, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return torch.randn((number, channels, *shape), generator=generator(purpose="volumes"))


def bezier(control: np.ndarray, s: float) -> np.ndarray:
    """A point of the curve by de Casteljau's construction: repeated interpolation, no polynomial."""
    points = [np.zeros(2), control[0], control[1], np.ones(2)]
    while len(points) > 1:
        points = [(1 - s) * a + s * b for a, b in itertools.pairwise(points)]
    return points[0]


@pytest.mark.parametrize("inverted", [False, True])
def test_the_curve_goes_through_bezier_points(inverted):
    control = torch.rand(4, 2, 2, generator=generator())
    inputs, outputs = bezier_curve(control, torch.full((4,), inverted))
    for sample, s in itertools.product(range(4), (0.1, 0.37, 0.5, 0.93)):
        x, y = bezier(control[sample].double().numpy(), s)
        if (
            inverted
        ):  # the paper's code sorts the inputs, and leaves the outputs as they came: from the other end
            y = bezier(control[sample].double().numpy(), 1 - s)[1]
        at = torch.full((4, 1), float(x))
        assert along_curve(at, inputs, outputs)[sample].item() == pytest.approx(y, abs=2e-4)


@pytest.mark.parametrize("inverted", [False, True])
def test_the_curve_is_monotone_with_its_ends_fixed(inverted):
    control = torch.rand(64, 2, 2, generator=generator())
    control[:4] = torch.tensor(
        [[[1, 0], [0, 1]], [[1, 1], [0, 0]], [[0, 0], [0, 0]], [[1, 0], [0, 0]]]
    ).float()
    curve = bezier_curve(control, torch.full((64,), inverted))
    values = torch.linspace(0, 1, 500).expand(64, -1).contiguous()
    mapped = along_curve(values, *curve)
    steps = mapped.diff(dim=1) * (-1 if inverted else 1)
    assert steps.min() >= -1e-6
    ends = torch.tensor([1.0, 0.0] if inverted else [0.0, 1.0]).expand(64, 2)
    torch.testing.assert_close(mapped[:, [0, -1]], ends, atol=2e-3, rtol=0)


def test_a_single_window_keeps_its_voxels_and_touches_no_other():
    for index in range(5):
        source = draw_shuffle(1, (40, 50, 60), generator(index))
        assert sorted(source.tolist()) == list(range(40 * 50 * 60)), "a permutation of all voxels"
        moved = np.unravel_index(np.flatnonzero(source.numpy() != np.arange(len(source))), (40, 50, 60))
        for places, tenth in zip(moved, (4, 5, 6), strict=True):
            assert len(places) == 0 or places.max() - places.min() < tenth


def test_overlapping_windows_shuffle_the_original_and_the_last_one_counts():
    """Window by window: what each voxel takes comes from the last window that covers it, and from nowhere else."""
    number, shape = 400, (30, 40, 30)
    source = draw_shuffle(number, shape, generator()).numpy()
    windows = draw_windows(number, (1, 1, 1), (3, 4, 3), shape, generator())  # the same draw
    last = np.full(shape, -1)
    for n, (start, stop) in enumerate(zip(*(part.numpy() for part in windows), strict=True)):
        last[start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]] = n
    assert (last >= 0).any() and (last < 0).any()
    taken: dict[int, list[int]] = {}
    for voxel, origin in enumerate(source):
        n = last.flat[voxel]
        if n < 0:
            assert origin == voxel
            continue
        place = np.array(np.unravel_index(origin, shape))
        assert (place >= windows.start[n].numpy()).all() and (place < windows.stop[n].numpy()).all()
        taken.setdefault(int(n), []).append(origin)
    assert all(len(set(origins)) == len(origins) for origins in taken.values()), "no voxel is used twice"


def test_every_order_within_a_window_is_as_likely():
    """A window of up to 1 x 1 x 3 voxels among three: each of the six orders of a full one comes equally often."""
    counts: dict[tuple[int, ...], int] = {}
    for index in range(2000):
        windows = draw_windows(1, (1, 1, 1), (0, 0, 3), (1, 1, 30), generator(index))
        source = draw_shuffle(1, (1, 1, 30), generator(index))
        start, stop = (int(part[0, 2]) for part in windows)
        if stop - start == 3:
            order = tuple((source[start:stop] - start).tolist())
            counts[order] = counts.get(order, 0) + 1
    total = sum(counts.values())
    assert len(counts) == 6 and total > 500
    assert max(abs(count / total - 1 / 6) for count in counts.values()) < 0.05


@pytest.mark.parametrize("shape", [SHAPE, (8, 16, 48)])
def test_windows_are_of_the_sides_asked_for_and_lie_inside(shape):
    low, high = (2, 3, 4), (6, 6, 6)
    windows = draw_windows(500, low, high, shape, generator(), margin=3)
    size = windows.stop - windows.start
    for axis, side in enumerate(shape):
        assert set(size[:, axis].tolist()) == set(range(low[axis], high[axis] + 1))
        room = ((side - size[:, axis]) // 2).clamp_max(3)
        assert (windows.start[:, axis] >= room).all() and (windows.stop[:, axis] <= side - room).all()


def test_a_window_is_the_voxels_from_its_start_to_its_stop():
    start, stop = torch.tensor([[1, 0, 2], [3, 3, 3]]), torch.tensor([[3, 2, 5], [4, 6, 4]])
    expected = np.zeros((2, 1, 5, 6, 7), dtype=bool)
    expected[0, 0, 1:3, 0:2, 2:5] = True
    expected[1, 0, 3:4, 3:6, 3:4] = True
    assert np.array_equal(inside(start, stop, (5, 6, 7)).numpy(), expected)


def test_whole_numbers_stay_below_their_bound():
    assert whole(torch.tensor([0.0, 1 - 2**-24]), torch.tensor(200)).tolist() == [0, 199]


def test_painting_inside_covers_a_few_windows_and_outside_all_but_a_few():
    always = {"shuffle": 0.0, "nonlinear": 0.0, "paint": 1.0}
    inner = draw(DistortionConfig(**always, outside=0.0), (1, *SHAPE), generators(60))
    outer = draw(DistortionConfig(**always, outside=1.0), (1, *SHAPE), generators(60))
    for painted in inner.painted[:, 0].numpy():
        assert not painted[:3].any() and not painted[-3:].any() and not painted[:, :3].any(), "a margin"
        assert painted.mean() <= 5 / 27
    for painted in outer.painted[:, 0].numpy():
        kept = ~painted
        assert kept.any() and not kept[:3].any() and not kept[..., -3:].any()
        assert kept.mean() >= np.prod([side - 4 * side // 7 for side in SHAPE]) / np.prod(SHAPE)
    shares = inner.painted.float().mean((1, 2, 3, 4))
    assert 0 < shares.mean() < 0.2 < outer.painted.float().mean()


def test_distortions_come_as_often_as_asked_for():
    config = DistortionConfig(shuffle=0.5, nonlinear=0.9, paint=0.7, outside=0.8, num_windows=50)
    drawn = draw(config, (1, 12, 12, 30), generators(300))
    shuffled = (drawn.source != torch.arange(12 * 12 * 30)).any(1).float().mean()
    assert shuffled == pytest.approx(0.5, abs=0.1)
    assert drawn.bent.float().mean() == pytest.approx(0.9, abs=0.06)
    assert drawn.inverted.float().mean() == pytest.approx(0.5, abs=0.1)
    share = drawn.painted.float().mean((1, 2, 3, 4))
    assert (share > 0.35).float().mean() == pytest.approx(0.7 * 0.8, abs=0.1)
    assert (share == 0).float().mean() == pytest.approx(0.3 + 0.7 * 0.2 * 0.05, abs=0.08)


def test_applying_is_shuffle_then_bend_then_paint_voxel_by_voxel():
    unit, _, _ = to_unit(volumes(2, 2, (6, 8, 12)))
    drawn = Distortion(
        source=torch.stack([torch.randperm(6 * 8 * 12, generator=generator(i)) for i in range(2)]),
        control=torch.rand(2, 2, 2, generator=generator(2)),
        bent=torch.tensor([True, False]),
        inverted=torch.tensor([True, False]),
        painted=torch.rand(2, 1, 6, 8, 12, generator=generator(3)) < 0.3,
        noise=torch.rand(2, 2, 6, 8, 12, generator=generator(4)),
    )
    before = unit.clone()
    got = apply(drawn, unit)
    assert torch.equal(unit, before)
    inputs, outputs = (part.numpy() for part in bezier_curve(drawn.control, drawn.inverted))
    for b, c in itertools.product(range(2), range(2)):
        for voxel in range(6 * 8 * 12):
            expected = unit[b, c].flatten()[drawn.source[b, voxel]].item()
            if drawn.bent[b]:
                expected = np.interp(expected, inputs[b], outputs[b])
            if drawn.painted[b, 0].flatten()[voxel]:
                expected = drawn.noise[b, c].flatten()[voxel].item()
            assert got[b, c].flatten()[voxel].item() == pytest.approx(expected, abs=1e-5)


def test_no_distortion_is_the_volume_itself():
    clean = volumes()
    unit, low, extent = to_unit(clean)
    assert unit.amin() == 0 and unit.amax() == 1
    torch.testing.assert_close(apply(draw(NEVER, (1, *SHAPE), generators(2)), unit) * extent + low, clean)
    flat, _, _ = to_unit(torch.full((1, 1, 4, 4, 4), 3.0))
    assert torch.equal(flat, torch.zeros(1, 1, 4, 4, 4)), "a constant volume divides by nothing"


def network(channels: int = 1) -> ResidualUNet:
    return ResidualUNet(
        UNetConfig(in_channels=channels, features=(4, 6, 8), blocks=(1, 1, 1), time_dim=8),
        generator=generator(purpose="weights"),
    )


def test_the_loss_is_the_mean_squared_error_over_all_known_voxels():
    objective, clean = build_objective("models-genesis", network(2)), volumes(2, 2)
    known = torch.rand(2, 1, *SHAPE, generator=generator(9)) < 0.8
    output = objective(clean, generators(2), known)
    with torch.no_grad():
        seen = objective.distorted(clean, generators(2), known)
        prediction = objective.network(seen, torch.zeros(2)).numpy()
    assert (seen.masked_select(~known.expand_as(seen)) == 0).all()
    errors = [
        np.mean([(p - x)[k[0]] ** 2 for p, x in zip(prediction[b], clean[b].numpy(), strict=True)])
        for b, k in enumerate(known.numpy())
    ]
    assert output.loss.item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_the_fold_is_the_encoder_that_was_trained_and_its_loss_falls():
    objective, clean = build_objective("models-genesis", network()), volumes(2, 1, (8, 8, 12)).cumsum(2) / 3
    losses = losses_of_training(objective, clean, generators, 15)
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    net = objective.network
    trained = net.stages(clean, torch.zeros(2))
    for one, other in zip(net.at(0.0).encoder(clean), trained, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrong", [{"shuffle": 1.5}, {"outside": -0.1}, {"num_windows": 0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DistortionConfig(**wrong)
