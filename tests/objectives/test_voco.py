"""VoCo against a reading of its equations with loops, voxels counted one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mdae.errors import ConfigError
from mdae.networks.unet import ResidualUNet, UNetConfig
from mdae.objectives import build_objective
from mdae.objectives.voco import (
    Regions,
    VoCoConfig,
    base_loss,
    cut,
    draw,
    fitting_side,
    overlaps,
    position_loss,
    region_side,
)
from mdae.seeding import torch_generator
from tests import contract

PATCH = (13, 12, 10)
GRID = (3, 2, 2)  # cells of 4 x 6 x 5, one voxel of the first axis left over
STILL = VoCoConfig(grid=GRID, flip=0.0, turn=0.0)
SMALL = {"width": 16, "grid": (2, 2, 2), "targets": 3}


def drawn(settings: VoCoConfig = STILL, number: int = 3) -> Regions:
    return draw(settings, PATCH, [torch_generator(0, "regions", i) for i in range(number)])


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch_generator(seed, "normal"))


def voxels(start: torch.Tensor, side: tuple[int, int, int]) -> set[tuple[int, ...]]:
    """Every voxel of a region."""
    ranges = [range(int(first), int(first) + length) for first, length in zip(start, side, strict=True)]
    return {(x, y, z) for x in ranges[0] for y in ranges[1] for z in ranges[2]}


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# -- regions ------------------------------------------------------------------------------------------------------


def test_base_regions_tile_the_middle_of_the_crop():
    side = region_side(GRID, PATCH)
    assert side == (4, 6, 5)
    starts = drawn().starts[:, :12]
    covered = [voxel for start in starts[0] for voxel in voxels(start, side)]
    assert len(covered) == len(set(covered)) == 12 * 4 * 6 * 5  # no voxel twice
    assert set(covered) == {(x, y, z) for x in range(12) for y in range(12) for z in range(10)}
    assert (starts == starts[:1]).all(), "the same for every sample"


def test_overlaps_are_shares_of_voxels_and_sum_to_1():
    side = region_side(GRID, PATCH)
    starts = drawn().starts
    ours = overlaps(starts[:, :12], starts[:, 12:], side)
    assert ours.shape == (3, 4, 12)
    for b, m, n in np.ndindex(3, 4, 12):
        target, base = voxels(starts[b, 12 + m], side), voxels(starts[b, n], side)
        assert ours[b, m, n].item() == pytest.approx(len(target & base) / len(target), abs=1e-6)
    torch.testing.assert_close(ours.sum(dim=2), torch.ones(3, 4))


def test_targets_lie_anywhere_in_the_grid():
    starts = drawn(number=300).starts[:, 12:]
    assert starts.flatten(0, 1).amin(0).tolist() == [0, 0, 0]
    assert starts.flatten(0, 1).amax(0).tolist() == [8, 6, 5]


def test_regions_are_cut_voxel_by_voxel_mirrored_and_turned():
    clean, side = normal(2, 2, 9, 9, 8), (4, 4, 3)
    regions = Regions(
        starts=torch.tensor([[[0, 5, 2], [3, 1, 5]], [[5, 0, 0], [2, 2, 4]]]),
        flips=torch.tensor([[[0, 0, 0], [1, 0, 1]], [[0, 1, 0], [0, 0, 0]]], dtype=torch.bool),
        turns=torch.tensor([[0, 1], [3, 2]]),
    )
    ours = cut(clean, regions, side, side)
    assert ours.shape == (4, 2, *side)
    for b, r in np.ndindex(2, 2):
        x, y, z = regions.starts[b, r].tolist()
        expected = clean[b, :, x : x + 4, y : y + 4, z : z + 3].numpy()
        expected = np.flip(expected, [1 + a for a in range(3) if regions.flips[b, r, a]])
        expected = np.rot90(expected, int(regions.turns[b, r]), axes=(1, 2))
        np.testing.assert_array_equal(ours[2 * b + r].numpy(), expected)


def test_regions_are_stretched_to_what_the_network_takes():
    assert fitting_side((16, 16, 16), 8) == (16, 16, 16)
    assert fitting_side((53, 53, 53), 32) == (64, 64, 64)
    assert fitting_side((42, 42, 42), 16) == (48, 48, 48)
    assert fitting_side((3, 21, 9), 8) == (8, 24, 8)
    assert fitting_side((3, 5, 4), 4) == (8, 8, 8)  # one voxel at the deepest stage cannot be normalised
    regions = Regions(
        torch.zeros(1, 1, 3, dtype=torch.long), torch.zeros(1, 1, 3, dtype=bool), torch.zeros(1, 1).long()
    )
    flat = torch.full((1, 1, 9, 9, 9), 2.5)
    assert torch.equal(cut(flat, regions, (3, 5, 4), (8, 8, 4)), torch.full((1, 1, 8, 8, 4), 2.5))


def test_a_region_that_is_not_square_is_mirrored_but_not_turned():
    clean = normal(1, 1, 8, 8, 8)
    regions = Regions(
        torch.zeros(1, 1, 3).long(), torch.tensor([[[True, False, False]]]), torch.ones(1, 1).long()
    )
    assert torch.equal(cut(clean, regions, (4, 8, 4), (4, 8, 4)), clean[:, :, :4, :, :4].flip(2))


def test_choices_come_as_often_as_they_should():
    regions = drawn(VoCoConfig(grid=GRID, flip=0.3, turn=0.2), number=100)
    assert regions.flips.float().mean().item() == pytest.approx(0.3, abs=0.03)
    shares = [(regions.turns == k).float().mean().item() for k in range(4)]
    assert shares == pytest.approx([0.8, 0.2 / 3, 0.2 / 3, 0.2 / 3], abs=0.03)
    still = drawn(STILL)
    assert not still.flips.any() and not still.turns.any()


# -- losses -------------------------------------------------------------------------------------------------------


def embeddings() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Targets, base regions and labels, with cosines of both signs."""
    starts = drawn().starts
    label = overlaps(starts[:, :12], starts[:, 12:], region_side(GRID, PATCH))
    return normal(3, 4, 5), normal(3, 12, 5, seed=1), label


def test_the_position_loss_is_the_papers_equation():
    target, base, label = embeddings()
    total = 0.0
    for b in range(3):
        for m in range(4):
            for n in range(12):
                predicted = max(0.0, cosine(target[b, m].numpy(), base[b, n].numpy()))  # (1)
                distance = abs(label[b, m, n].item() - predicted)
                total += -math.log(1 - distance + 1e-6) / 12 / 4 / 3  # (3)
    assert position_loss(target, base, label).item() == pytest.approx(total, rel=1e-5)


def test_the_base_loss_is_the_papers_equation():
    _, base, _ = embeddings()
    total = 0.0
    for b in range(3):
        for i in range(12):
            for j in range(i + 1, 12):
                total += 2 / (12 * 11) * abs(cosine(base[b, i].numpy(), base[b, j].numpy())) / 3  # (5)
    assert base_loss(base).item() == pytest.approx(total, rel=1e-5)


def test_losses_vanish_where_they_should():
    label = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    apart = torch.eye(2)[None]
    assert position_loss(apart, apart, label).item() == pytest.approx(0, abs=2e-6)
    assert base_loss(apart).item() == 0
    assert base_loss(apart.sum(1, keepdim=True).expand(1, 2, 2)).item() == pytest.approx(1)
    assert position_loss(apart.flip(1), apart, label).item() == pytest.approx(-math.log(1e-6), rel=1e-3)


def test_no_gradient_reaches_base_regions_through_the_position():
    target, base, label = embeddings()
    target.requires_grad_(), base.requires_grad_()
    position_loss(target, base, label).backward()
    assert base.grad is None and target.grad.abs().sum() > 0
    base_loss(base).backward()
    assert base.grad.abs().sum() > 0


def test_losses_do_not_care_for_order_or_length():
    target, base, label = embeddings()
    order = torch.randperm(12, generator=torch_generator(0, "order"))
    torch.testing.assert_close(
        position_loss(3 * target, 0.2 * base[:, order], label[:, :, order]),
        position_loss(target, base, label),
    )
    torch.testing.assert_close(base_loss(7 * base[:, order]), base_loss(base))


# -- the objective ------------------------------------------------------------------------------------------------


def small_network() -> ResidualUNet:
    return ResidualUNet(UNetConfig(features=(4, 6, 8), blocks=(1, 1, 1), time_dim=8))


def test_the_objective_is_the_two_equations_on_its_own_regions():
    objective = contract.Case("voco", SMALL).build()
    clean = contract.volumes(2)
    output = objective(clean, contract.generators(2))
    regions = draw(objective.settings, (16, 16, 16), contract.generators(2))
    views = cut(clean, regions, (8, 8, 8), (8, 8, 8))
    features = [stage.mean(dim=(2, 3, 4)) for stage in objective.network.encoder(views)]
    rows = torch.cat(features, dim=1)
    z = torch.stack([objective.project(rows[:11]), objective.project(rows[11:])])
    label = overlaps(regions.starts[:, :8], regions.starts[:, 8:], (8, 8, 8))
    position, apart = position_loss(z[:, 8:], z[:, :8], label), base_loss(z[:, :8])
    torch.testing.assert_close(output.logs["position"], position.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.logs["base"], apart.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.loss, position + apart, rtol=1e-4, atol=1e-5)


def test_lambda_weighs_the_base_loss():
    clean = contract.volumes(1)
    one = contract.Case("voco", {**SMALL, "lambda_base": 2.5}).build()(clean, contract.generators(1))
    torch.testing.assert_close(one.loss.detach(), one.logs["position"] + 2.5 * one.logs["base"])


def test_the_fold_is_the_very_network_that_was_trained():
    """Also on a network whose FiLM was not the identity before, and whose blocks are no longer."""
    network = small_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * normal(*parameter.shape))
    objective = build_objective("voco", network, changes=SMALL)
    x = contract.volumes(2)
    for one, other in zip(objective.network.at(0.0).encoder(x), objective.network.encoder(x), strict=True):
        assert torch.equal(one, other)


def test_it_learns():
    objective = build_objective("voco", small_network(), changes=SMALL)
    clean = contract.volumes(3)
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(40):
        output = objective(clean, contract.generators(3, seed=step))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        losses.append(output.loss.item())
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:5])


@pytest.mark.parametrize(
    "values",
    [
        {"grid": (1, 1, 1)},
        {"grid": (2, 0, 2)},
        {"targets": 0},
        {"width": 0},
        {"flip": 1.5},
        {"turn": -0.1},
        {"lambda_base": -1.0},
    ],
)
def test_settings_that_make_no_sense_are_one_line(values):
    with pytest.raises(ConfigError) as caught:
        VoCoConfig(**values)
    assert "\n" not in str(caught.value)


def test_a_crop_too_small_for_the_grid_is_one_line():
    with pytest.raises(ConfigError, match="larger --patch") as caught:
        region_side((3, 3, 3), (8, 8, 2))
    assert "\n" not in str(caught.value)
