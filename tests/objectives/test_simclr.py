"""SimCLR against a reading of its equation with loops, and the views it compares."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mdae.errors import ConfigError
from mdae.networks.unet import ResidualUNet, UNetConfig
from mdae.objectives import build_objective
from mdae.objectives.heads import Projection, nt_xent, pooled
from mdae.objectives.simclr import SimCLRConfig
from mdae.objectives.views import (
    ViewOptions,
    apply_view,
    blurred,
    draw_view,
    quarter_turned,
    resized_boxes,
)
from mdae.seeding import torch_generator
from tests import contract

SHAPE = (8, 12, 16)
PLAIN = ViewOptions(share_min=1, share_max=1, aspect=1, flip=0, recolour=0, blur=0, noise=0)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch_generator(seed, "normal"))


def slow_nt_xent(first: np.ndarray, second: np.ndarray, temperature: float) -> float:
    """Equation (1) and Algorithm 1 of the paper, pair by pair: views 2k - 1 and 2k are of one sample."""
    views = [z.astype(np.float64) for pair in zip(first, second, strict=True) for z in pair]

    def similarity(i: int, j: int) -> float:
        return float(views[i] @ views[j] / np.linalg.norm(views[i]) / np.linalg.norm(views[j]))

    def loss(i: int, j: int) -> float:
        others = sum(math.exp(similarity(i, k) / temperature) for k in range(len(views)) if k != i)
        return -math.log(math.exp(similarity(i, j) / temperature) / others)

    pairs = range(0, len(views), 2)
    return sum(loss(k, k + 1) + loss(k + 1, k) for k in pairs) / len(views)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("number", [2, 5])
def test_nt_xent_is_the_papers_equation(number, temperature):
    first, second = normal(number, 7), normal(number, 7, seed=1)
    loss, _ = nt_xent(first, second, temperature)
    assert loss.item() == pytest.approx(slow_nt_xent(first.numpy(), second.numpy(), temperature), rel=1e-5)


def test_nt_xent_does_not_care_for_order_scale_or_which_view_comes_first():
    first, second = normal(6, 9).double(), normal(6, 9, seed=1).double()
    loss, accuracy = nt_xent(first, second, 0.5)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for other in (
        nt_xent(second, first, 0.5),
        nt_xent(first[order], second[order], 0.5),
        nt_xent(5 * first, 0.1 * second, 0.5),
    ):
        torch.testing.assert_close(other[0], loss)
        assert other[1] == accuracy
    assert nt_xent(first, second[order], 0.5)[0] != loss


def test_nt_xent_is_the_logarithm_of_all_others_where_nothing_differs():
    z = normal(1, 9).expand(5, 9)
    assert nt_xent(z, z, 0.5)[0].item() == pytest.approx(math.log(2 * 5 - 1), rel=1e-6)


def test_nt_xent_counts_found_partners():
    z = torch.eye(4)
    assert nt_xent(z, z, 0.5)[1] == 1
    assert nt_xent(z, z.roll(1, dims=0), 0.5)[1] == 0
    assert nt_xent(z, torch.stack([z[0], z[1], z[3], z[2]]), 0.5)[1] == 0.5


def test_the_projection_is_a_perceptron_with_standardised_hidden_units():
    head = Projection(5, 6, 3, normalise=True)
    x = normal(4, 5)
    hidden = x @ head.layers[0].weight.T + head.layers[0].bias
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()
    expected = hidden.clamp_min(0) @ head.layers[1].weight.T + head.layers[1].bias
    torch.testing.assert_close(head(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(x), head(x.float())) and head(x).dtype == torch.float32
    plain = Projection(5, 3)
    torch.testing.assert_close(plain(x), x @ plain.layers[0].weight.T + plain.layers[0].bias)


# -- views --------------------------------------------------------------------------------------------------------


def slow_box(volume: np.ndarray, start: np.ndarray, side: np.ndarray) -> np.ndarray:
    """A box of a volume (D, H, W) stretched to its shape: trilinear between voxel middles, the border repeated."""
    shape = volume.shape
    out = np.zeros(shape)
    for voxel in np.ndindex(*shape):
        place = [(start[a] + side[a] * (voxel[a] + 0.5) / shape[a]) * shape[a] - 0.5 for a in range(3)]
        place = [min(max(p, 0), n - 1) for p, n in zip(place, shape, strict=True)]
        low = [min(int(p), n - 2) for p, n in zip(place, shape, strict=True)]
        for corner in np.ndindex(2, 2, 2):
            weight = np.prod([p - b if c else 1 - p + b for p, b, c in zip(place, low, corner, strict=True)])
            out[voxel] += weight * volume[tuple(b + c for b, c in zip(low, corner, strict=True))]
    return out


def test_boxes_are_stretched_as_by_hand():
    crops = normal(2, 1, *SHAPE)
    start = torch.tensor([[0.1, 0.0, 0.45], [0.0, 0.3, 0.2]])
    side = torch.tensor([[0.5, 1.0, 0.55], [0.9, 0.43, 0.6]])
    ours = resized_boxes(crops, start, side)
    for b in range(2):
        expected = slow_box(crops[b, 0].numpy().astype(np.float64), start[b].numpy(), side[b].numpy())
        np.testing.assert_allclose(ours[b, 0].numpy(), expected, atol=1e-4)


def test_boxes_keep_to_share_and_aspect_and_lie_within_the_crop():
    options = ViewOptions(share_min=0.2, share_max=0.5, aspect=1.5)
    view = draw_view(options, (1, 2, 2, 2), [torch_generator(0, "views", i) for i in range(500)])
    share = view.side.prod(dim=1)
    assert 0.2 <= share.min() < 0.21 and 0.49 < share.max() < 0.501
    ratio = view.side.amax(dim=1) / view.side.amin(dim=1)
    assert 1.4 < ratio.max() <= 1.5001
    assert view.start.min() >= 0 and (view.start + view.side).max() <= 1 + 1e-6
    assert (view.start + view.side).max() > 0.99


def test_a_blur_is_a_gaussian_and_none_changes_nothing():
    x = torch.zeros(2, 1, 9, 9, 9)
    x[:, :, 4, 4, 4] = 1
    out = blurred(x, torch.tensor([0.8, 0.0]))
    assert torch.equal(out[1], x[1])
    weights = [math.exp(-0.5 * (d / 0.8) ** 2) if abs(d) <= 3 else 0 for d in range(-4, 5)]
    line = np.array(weights) / sum(weights)
    np.testing.assert_allclose(out[0, 0].numpy(), np.einsum("i,j,k->ijk", line, line, line), atol=1e-7)
    flat = torch.full((1, 2, 5, 6, 7), 3.0)
    torch.testing.assert_close(blurred(flat, torch.tensor([1.0])), flat)  # nothing comes in from outside


def test_choices_come_as_often_as_they_should():
    options = ViewOptions(recolour=0.8, blur=0.5, noise=0.1)
    view = draw_view(options, (1, 2, 2, 2), [torch_generator(0, "views", i) for i in range(1000)])
    assert (view.augmentation.gain != 1).float().mean().item() == pytest.approx(0.8, abs=0.05)
    assert (view.augmentation.shift != 0).equal(view.augmentation.gamma != 1)
    assert (view.sigma > 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert (view.noise.flatten(1) != 0).any(1).float().mean().item() == pytest.approx(0.1, abs=0.03)
    level = view.noise.std(dim=(1, 2, 3, 4))
    assert 0 < level.max() < 2 * options.noise_max


def test_a_view_with_nothing_done_is_the_crop():
    clean = normal(3, 2, *SHAPE)
    generators = [torch_generator(0, "views", i) for i in range(3)]
    torch.testing.assert_close(
        apply_view(draw_view(PLAIN, (2, *SHAPE), generators), clean, None, PLAIN), clean, rtol=0, atol=1e-5
    )


def test_unknown_voxels_stay_0_in_a_view_and_leave_no_trace():
    """A view of a crop in which everything unknown was wild is the view of one in which it was 0."""
    options = ViewOptions(recolour=1, blur=1, noise=1)
    known = torch.ones(2, 1, *SHAPE, dtype=torch.bool)
    known[:, :, 2:5, :7] = False
    clean = normal(2, 1, *SHAPE).masked_fill(~known, 0.0)
    view = draw_view(options, (1, *SHAPE), [torch_generator(0, "views", i) for i in range(2)])
    out = apply_view(view, clean, known, options)
    weight = resized_boxes(known.float(), view.start, view.side)
    for axis in range(3):
        chosen = view.augmentation.flip[:, axis].view(-1, 1, 1, 1, 1)
        weight = torch.where(chosen, weight.flip(2 + axis), weight)
    assert (weight <= 0.99).any() and torch.equal(out != 0, weight > 0.99)


def test_quarter_turns_are_those_of_numpy():
    x = normal(4, 2, 5, 5, 3)
    ours = quarter_turned(x, torch.arange(4))
    for k in range(4):
        np.testing.assert_array_equal(ours[k].numpy(), np.rot90(x[k].numpy(), k, axes=(1, 2)))


# -- the objective ------------------------------------------------------------------------------------------------


def small_network() -> ResidualUNet:
    return ResidualUNet(UNetConfig(features=(4, 6, 8), blocks=(1, 1, 1), time_dim=8))


def test_the_objective_is_the_equation_on_its_own_views():
    objective = contract.Case("simclr").build()
    clean = contract.volumes(3)
    loss = objective(clean, contract.generators(3)).loss
    options = objective.settings.views
    generators = contract.generators(3)
    views = [
        apply_view(draw_view(options, (1, 16, 16, 16), generators), clean, None, options) for _ in range(2)
    ]
    assert not torch.equal(*views)
    features = [stage.mean(dim=(2, 3, 4)) for stage in objective.network.encoder(torch.cat(views))]
    torch.testing.assert_close(pooled(objective.network.encoder(torch.cat(views))), torch.cat(features, 1))
    z = objective.project(torch.cat(features, dim=1)).detach().numpy()
    assert loss.item() == pytest.approx(slow_nt_xent(z[:3], z[3:], 0.5), rel=1e-5)


def test_the_order_of_the_batch_does_not_matter():
    objective, clean = contract.Case("simclr").build(), contract.volumes(3)
    order = [2, 0, 1]
    there = objective(clean, contract.generators(3)).loss
    generators = [contract.generators(3)[i] for i in order]
    torch.testing.assert_close(objective(clean[order], generators).loss, there)


def test_the_fold_is_the_very_network_that_was_trained():
    """Also on a network whose FiLM was not the identity before, and whose blocks are no longer."""
    network = small_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * normal(*parameter.shape))
    objective = build_objective("simclr", network)
    folded = objective.network.at(0.0).encoder
    x = contract.volumes(2)
    for one, other in zip(folded(x), objective.network.encoder(x), strict=True):
        assert torch.equal(one, other)


def test_it_learns():
    """From four crops, always with other views, to find the partner far more often than one time in seven."""
    objective = build_objective("simclr", small_network(), changes={"share_min": 0.5})
    clean = torch.stack([normal(1, 4, 4, 4, seed=i) for i in range(4)])
    clean = torch.nn.functional.interpolate(clean, 16, mode="trilinear")
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    losses, found = [], []
    for step in range(40):
        output = objective(clean, contract.generators(4, seed=step))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        losses.append(output.loss.item())
        found.append(output.logs["accuracy"].item())
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
    assert np.mean(found[-10:]) > 0.6


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0.0},
        {"projection": 0},
        {"share_min": 0.0},
        {"share_min": 0.6, "share_max": 0.5},
        {"aspect": 0.9},
        {"recolour": 1.1},
        {"blur": -0.1},
        {"sigma_max": 1.5},
        {"noise_max": -1.0},
        {"flip": 2.0},
        {"gamma": 3.0},
    ],
)
def test_settings_that_make_no_sense_are_one_line(values):
    own = {name: value for name, value in values.items() if name in ("temperature", "projection")}
    with pytest.raises(ConfigError) as caught:
        SimCLRConfig(**own) if own else ViewOptions(**values)
    assert "\n" not in str(caught.value)
