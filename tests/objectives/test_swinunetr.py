"""Swin UNETR's pre-training against a reading of its three losses with loops, boxes and turns one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mdae.errors import ConfigError
from mdae.networks.unet import ResidualUNet, UNetConfig
from mdae.objectives import build_objective
from mdae.objectives.swinunetr import (
    BOXES,
    Reconstruction,
    SwinUNETRConfig,
    boxes,
    cut_out,
    draw,
    square,
)
from mdae.seeding import torch_generator
from tests import contract
from tests.objectives.test_simclr import slow_nt_xent

PUBLISHED = SwinUNETRConfig()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch_generator(seed, "normal"))


def generators(number: int) -> list[torch.Generator]:
    return [torch_generator(0, "swinunetr", i) for i in range(number)]


# -- boxes --------------------------------------------------------------------------------------------------------


def slow_cut(starts: np.ndarray, ends: np.ndarray, share: float, patch: tuple[int, int, int]) -> np.ndarray:
    """Box after box, until their volumes reach the share."""
    holes, total = np.zeros(patch, dtype=bool), 0
    for start, end in zip(starts.astype(int), ends.astype(int), strict=True):
        if total >= share * math.prod(patch):
            break
        holes[start[0] : end[0], start[1] : end[1], start[2] : end[2]] = True
        total += math.prod(end - start)
    return holes


@pytest.mark.parametrize("patch", [(20, 24, 16), (12, 8, 40)])
def test_boxes_are_cut_out_until_the_share_is_reached(patch):
    u = torch.rand(3, BOXES, 2, 3, generator=torch_generator(0, "boxes"))
    starts, ends = boxes(PUBLISHED, u, patch)
    share = torch.tensor([0.0, 0.12, 0.3])
    ours = cut_out(starts, ends, share, patch)
    assert ours.shape == (3, 1, *patch) and not ours[0].any()
    for b in range(3):
        expected = slow_cut(starts[b].numpy(), ends[b].numpy(), share[b].item(), patch)
        np.testing.assert_array_equal(ours[b, 0].numpy(), expected)


def test_boxes_have_the_published_sizes_and_lie_anywhere():
    patch = (40, 60, 20)
    starts, ends = boxes(PUBLISHED, torch.rand(50, BOXES, 2, 3, generator=torch_generator(0, "boxes")), patch)
    lengths = ends - starts
    for axis, side in enumerate(patch):
        least, most = round(0.05 * side), round(0.25 * side)
        whole = lengths[..., axis][ends[..., axis] < side]
        assert whole.min() == least and whole.max() == most
        assert lengths[..., axis].min() == least, "the border cuts none below the least"
        assert starts[..., axis].min() == 0 and ends[..., axis].max() == side
        counts = torch.bincount(starts[..., axis].flatten().long(), minlength=side)
        assert counts[: side - least + 1].min() > 0.6 * counts.max() and not counts[side - least + 1 :].any()


def test_there_are_enough_boxes_for_the_published_share():
    starts, ends = boxes(
        PUBLISHED, torch.rand(500, BOXES, 2, 3, generator=torch_generator(1, "boxes")), (48, 48, 48)
    )
    assert ((ends - starts).prod(2).sum(1) / 48**3).min() > PUBLISHED.dropped


def test_turns_come_alike_often_and_shares_are_uniform():
    drawn = draw(PUBLISHED, (1, 8, 8, 8), generators(600))
    counts = torch.bincount(drawn.turns, minlength=4) / 600
    assert counts.tolist() == pytest.approx([0.25] * 4, abs=0.06)
    assert drawn.holes.float().mean().item() == pytest.approx(0.15, abs=0.03)
    assert drawn.noise.std().item() == pytest.approx(1, abs=0.01)


# -- heads --------------------------------------------------------------------------------------------------------


def test_the_reconstruction_has_the_volumes_shape_and_sees_the_deepest_stage_alone():
    config = UNetConfig(in_channels=2, features=(4, 6, 8), blocks=(1, 1, 1), time_dim=8)
    assert Reconstruction(ResidualUNet(config))(normal(3, 8, 2, 3, 4)).shape == (3, 2, 8, 12, 16)


def test_a_square_is_the_middle():
    x = normal(2, 1, 6, 10, 3)
    assert torch.equal(square(x), x[:, :, :, 2:8]) and torch.equal(
        square(x.transpose(2, 3)), x.transpose(2, 3)[:, :, 2:8]
    )
    assert torch.equal(square(normal(1, 1, 4, 4, 9)), normal(1, 1, 4, 4, 9))


# -- the objective ------------------------------------------------------------------------------------------------


def small_network() -> ResidualUNet:
    return ResidualUNet(UNetConfig(features=(4, 6, 8), blocks=(1, 1, 1), time_dim=8))


@pytest.mark.parametrize("shape", [(16, 16, 16), (12, 20, 16)])
def test_the_three_losses_are_those_of_the_paper(shape):
    """Views by numpy.rot90, voxels and classes counted one by one, with some voxels unknown."""
    changes = {"lambda_inpaint": 2.0, "lambda_contrast": 0.5, "lambda_rotate": 3.0}
    objective = contract.Case("swinunetr", changes).build()
    clean = contract.volumes(2, shape)
    known = torch.ones(2, 1, *shape, dtype=torch.bool)
    known[0, :, 2:7, 3:9] = False
    output = objective(clean, contract.generators(2), known)

    start = [(length - min(shape[:2])) // 2 for length in shape[:2]]
    middle = [slice(first, first + min(shape[:2])) for first in start]
    sources = contract.generators(2)
    views, targets, turns, sures = [], [], [], []
    for _ in range(2):
        drawn = draw(objective.settings, (1, 12, 12, 16) if shape[0] == 12 else (1, *shape), sources)
        for b in range(2):
            k = int(drawn.turns[b])
            target = np.rot90(clean[b, 0, middle[0], middle[1]].numpy(), k)
            sure = np.rot90(known[b, 0, middle[0], middle[1]].numpy(), k)
            view = np.where(drawn.holes[b, 0].numpy(), drawn.noise[b, 0].numpy(), target)
            views.append(np.where(sure, view, 0))
            targets.append(target)
            turns.append(k)
            sures.append(sure)
    deepest = objective.network.encoder(torch.tensor(np.stack(views))[:, None])[-1]
    filled = objective.inpaint(deepest)[:, 0].detach().numpy()
    inpaint = np.mean([np.abs(f - t)[s].mean() for f, t, s in zip(filled, targets, sures, strict=True)])
    logits = objective.rotate(deepest.mean((2, 3, 4))).detach().numpy().astype(np.float64)
    rotate = np.mean(
        [-math.log(np.exp(row[k]) / np.exp(row).sum()) for row, k in zip(logits, turns, strict=True)]
    )
    z = objective.contrast(deepest.mean((2, 3, 4))).detach().numpy()
    contrast = slow_nt_xent(z[:2], z[2:], 0.5)
    assert output.logs["inpaint"].item() == pytest.approx(inpaint, rel=1e-4)
    assert output.logs["rotate"].item() == pytest.approx(rotate, rel=1e-4)
    assert output.logs["contrast"].item() == pytest.approx(contrast, rel=1e-4)
    assert output.loss.item() == pytest.approx(2 * inpaint + 0.5 * contrast + 3 * rotate, rel=1e-4)


def test_turn_and_contrast_start_at_chance():
    """A head of zeros knows nothing: log 4 for the turn. Projections alike: log(2N - 1) for the contrast."""
    objective = build_objective("swinunetr", small_network())
    torch.nn.init.zeros_(objective.rotate.layers[0].weight)
    torch.nn.init.zeros_(objective.contrast.layers[0].weight)
    torch.nn.init.ones_(objective.contrast.layers[0].bias)
    logs = objective(contract.volumes(3), contract.generators(3)).logs
    assert logs["rotate"].item() == pytest.approx(math.log(4), rel=1e-6)
    assert logs["contrast"].item() == pytest.approx(math.log(5), rel=1e-6)


def test_the_order_of_the_batch_does_not_matter():
    objective, clean = contract.Case("swinunetr").build(), contract.volumes(3)
    order = [2, 0, 1]
    there = objective(clean, contract.generators(3)).loss
    moved = objective(clean[order], [contract.generators(3)[i] for i in order]).loss
    torch.testing.assert_close(moved, there)


def test_the_fold_is_the_very_network_that_was_trained():
    """Also on a network whose FiLM was not the identity before, and whose blocks are no longer."""
    network = small_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * normal(*parameter.shape))
    objective = build_objective("swinunetr", network)
    x = contract.volumes(2)
    for one, other in zip(objective.network.at(0.0).encoder(x), objective.network.encoder(x), strict=True):
        assert torch.equal(one, other)


def test_it_learns():
    """Stripes along one axis tell a quarter from a half turn, and are easily filled in."""
    objective = build_objective("swinunetr", small_network())
    stripes = torch.linspace(0, 12, 16).sin().view(1, 1, 16, 1, 1).expand(4, 1, 16, 16, 16)
    ramp = torch.linspace(-1, 1, 16).view(1, 1, 1, 16, 1)
    clean = stripes + ramp  # the same four times: there is no partner to find
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    logs = []
    for step in range(40):
        output = objective(clean, contract.generators(4, seed=step))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        logs.append(
            {"loss": output.loss.item()} | {name: value.item() for name, value in output.logs.items()}
        )
    first, last = (
        {name: np.mean([log[name] for log in part]) for name in logs[0]} for part in (logs[:5], logs[-10:])
    )
    assert last["loss"] < first["loss"]
    assert last["rotate"] < 0.8 * math.log(4) and last["inpaint"] < 0.8 * first["inpaint"]


@pytest.mark.parametrize(
    "values",
    [
        {"dropped": 0.0},
        {"dropped": 1.2},
        {"box_min": 0.3},
        {"box_max": 1.5},
        {"temperature": 0.0},
        {"projection": 0},
        {"lambda_rotate": -1.0},
    ],
)
def test_settings_that_make_no_sense_are_one_line(values):
    with pytest.raises(ConfigError) as caught:
        SwinUNETRConfig(**values)
    assert "\n" not in str(caught.value)
