"""The family of MDAE, MAE, DSM and DiffMAE: its equations, and the limits where one becomes another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdae.corruption import CorruptionConfig, Schedule, apply, draw
from mdae.errors import ConfigError
from mdae.networks.unet import ResidualUNet, UNetConfig
from mdae.objectives import (
    OBJECTIVES,
    Denoising,
    DenoisingConfig,
    build_objective,
    objective_config,
    squared_error_terms,
    visible_weight,
)
from mdae.options import ObjectiveOptions
from mdae.seeding import torch_generator
from tests import reference

SHAPE = (12, 20, 16)
FAMILY = [name for name, spec in OBJECTIVES.items() if spec.build is Denoising]


def network(channels: int = 1) -> ResidualUNet:
    built = ResidualUNet(UNetConfig(in_channels=channels, features=(4, 6, 8), blocks=(1, 1, 1), time_dim=8))
    with torch.no_grad():  # away from the start, where many gradients are zero
        for index, parameter in enumerate(built.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch_generator(0, "jitter", index)))
    return built


def volumes(number: int = 3, channels: int = 1) -> torch.Tensor:
    return torch.randn((number, channels, *SHAPE), generator=torch_generator(0, "volumes"))


def generators(number: int = 3, seed: int = 0) -> list[torch.Generator]:
    return [torch_generator(seed, "corruption", index) for index in range(number)]


def gradients(objective: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    objective.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys() and first
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("kind", ["ve", "vp", "flow"])
@pytest.mark.parametrize("weighting", ["inverse_error", "uniform", "min_snr"])
@pytest.mark.parametrize("ratio", [(0.01, 0.99), (0.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("per_channel", [False, True])
def test_loss_matches_the_equations(kind, weighting, ratio, per_channel):
    """(1) to (9) on odd sizes with three channels, all-masked and all-visible samples among them."""
    corruption = CorruptionConfig(
        schedule=Schedule(kind=kind, sigma_max=2.0),
        block=(5, 4, 7),
        per_channel=per_channel,
        p_min=ratio[0],
        p_max=ratio[1],
    )
    config = DenoisingConfig(
        corruption=corruption, weighting=weighting, w_max=4.0, lambda_masked=0.7, lambda_visible=1.3
    )
    objective = Denoising(network(3), config)
    clean = volumes(channels=3)
    output = objective(clean, generators())
    drawn = draw(corruption, (3, *SHAPE), generators())
    with torch.no_grad():
        corrupted = apply(corruption, clean, drawn)
        prediction = objective.network(corrupted.input, corrupted.t).numpy()
    masks = np.stack([reference.mask_of_blocks(b.numpy(), SHAPE, (5, 4, 7)) for b in drawn.blocks])
    weights = [
        reference.weight(weighting, 4.0, *reference.coefficients(kind, 2.0, float(t))) for t in drawn.t
    ]
    expected = reference.loss(
        prediction, clean.numpy(), masks, weights, lambda_masked=0.7, lambda_visible=1.3
    )
    assert output.loss.item() == pytest.approx(expected, rel=1e-6)


def test_sigma_max_0_is_mae_in_loss_and_in_every_gradient():
    net, clean = network(), volumes()
    mdae = build_objective("mdae", net, ObjectiveOptions(sigma_max=0.0, p_min=0.75, p_max=0.75))
    mae = build_objective("mae", net)
    ours, theirs = mdae(clean, generators()), mae(clean, generators())
    assert torch.equal(ours.loss, theirs.loss)
    assert_same(gradients(mdae, ours.loss), gradients(mae, theirs.loss))


def test_mae_is_masked_reconstruction_written_out():
    """The other side of the limit: MAE itself against its textbook form on the same masks."""
    net, clean = network(), volumes()
    mae = build_objective("mae", net, ObjectiveOptions(block=(4, 4, 4)))
    output = mae(clean, generators())
    ours = gradients(mae, output.loss)
    corruption = mae.config.corruption
    mask = apply(corruption, clean, draw(corruption, (1, *SHAPE), generators())).mask
    prediction = net(clean * ~mask, torch.zeros(3))
    textbook = torch.stack(
        [((p - c)[m] ** 2).mean() for p, c, m in zip(prediction, clean, mask, strict=True)]
    )
    torch.testing.assert_close(output.loss, textbook.mean(), rtol=1e-6, atol=0)
    for name, gradient in gradients(mae, textbook.mean()).items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6)


def test_p_mask_0_is_dsm_in_loss_and_in_every_gradient():
    net, clean = network(), volumes()
    mdae = build_objective("mdae", net, ObjectiveOptions(p_min=0.0, p_max=0.0))
    dsm = build_objective("dsm", net)
    ours, theirs = mdae(clean, generators()), dsm(clean, generators())
    assert torch.equal(ours.loss, theirs.loss)
    assert_same(gradients(mdae, ours.loss), gradients(dsm, theirs.loss))


def test_dsm_is_weighted_denoising_written_out():
    net, clean = network(), volumes()
    dsm = build_objective("dsm", net, ObjectiveOptions(sigma_max=2.0), {"w_max": 1e6})
    output = dsm(clean, generators())
    drawn = draw(dsm.config.corruption, (1, *SHAPE), generators())
    sigma = 2.0 * drawn.t.view(-1, 1, 1, 1, 1)
    prediction = net(clean + sigma * drawn.noise, drawn.t)
    weight = (sigma**2 + 1) / sigma**2
    torch.testing.assert_close(output.loss, (weight * (prediction - clean) ** 2).mean(), rtol=1e-5, atol=0)


def test_diffmae_noises_what_is_masked_and_supervises_it_alone():
    net, clean = network(), volumes()
    diffmae = build_objective("diffmae", net, ObjectiveOptions(block=(4, 4, 4)))
    output = diffmae(clean, generators())
    corruption = diffmae.config.corruption
    corrupted = apply(corruption, clean, draw(corruption, (1, *SHAPE), generators()))
    assert torch.equal(corrupted.input[~corrupted.mask], clean[~corrupted.mask])
    assert not torch.isclose(corrupted.input[corrupted.mask], clean[corrupted.mask]).all()
    prediction = net(corrupted.input, corrupted.t)
    expected = squared_error_terms(prediction, clean, corrupted.mask).masked.mean()
    assert torch.equal(output.loss, expected)


def test_every_noise_level_counts_the_same_under_the_best_linear_denoiser():
    """What `inverse_error` is for: weight times the error of X0's best linear estimate from X_t is 1."""
    t = torch.tensor([0.05, 0.3, 0.8])
    for kind in ("ve", "vp", "flow"):
        coefficients = Schedule(kind=kind, sigma_max=3.0).at(t)
        alpha, sigma = coefficients
        error = sigma**2 / (alpha**2 + sigma**2)
        product = visible_weight(coefficients, "inverse_error", 1e9) * error
        torch.testing.assert_close(product, torch.ones(3))


def test_the_weight_is_clipped_and_0_where_there_is_no_noise():
    coefficients = Schedule(sigma_max=1.0).at(torch.tensor([0.0, 1e-6, 1.0]))
    for weighting, last in (("inverse_error", 2.0), ("min_snr", 1.0), ("uniform", 1.0)):
        weights = visible_weight(coefficients, weighting, 7.0)
        assert weights.tolist() == pytest.approx([0.0, 1.0 if weighting == "uniform" else 7.0, last])


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_an_empty_region_contributes_0_and_no_nan(ratio):
    net = network()
    objective = build_objective("mdae", net, ObjectiveOptions(p_min=ratio, p_max=ratio))
    output = objective(volumes(), generators())
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(g).all() for g in gradients(objective, output.loss).values())
    assert output.logs["masked" if ratio == 0 else "visible"].isnan()


def test_no_sample_leaks_into_another():
    objective = build_objective("mdae", network())
    clean = volumes()
    together = objective(clean, generators()).loss
    alone = [objective(clean[i : i + 1], generators()[i : i + 1]).loss for i in range(3)]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-6, atol=0)


def test_options_that_would_change_the_objective_are_refused():
    with pytest.raises(ConfigError, match="mae has no sigma_max"):
        objective_config("mae", ObjectiveOptions(sigma_max=1.0))
    with pytest.raises(ConfigError, match="use one of mdae, mdae-masked, mae"):
        objective_config("simclr9")


@pytest.mark.parametrize("name", FAMILY)
def test_options_reach_the_settings(name):
    changes = {"w_max": 3.0, "lambda_masked": 2.0}
    config = objective_config(name, ObjectiveOptions(block=(8, 8, 8)), changes)
    assert (config.w_max, config.corruption.block, config.lambda_masked) == (3.0, (8, 8, 8), 2.0)


@pytest.mark.parametrize("name", FAMILY)
def test_unknown_voxels_are_neither_seen_nor_learned_from(name):
    """What stands in unknown voxels changes neither loss nor gradient, and all known is as if nothing were said."""
    objective, clean = build_objective(name, network()), volumes()
    known = torch.ones(3, 1, *SHAPE, dtype=torch.bool)
    plain, told = objective(clean, generators()), objective(clean, generators(), known)
    assert torch.equal(plain.loss, told.loss)
    known[:, :, 3:7, 5:, :9] = False
    one, other = (objective(torch.where(known, clean, value), generators(), known) for value in (0.0, 9.0))
    assert torch.equal(one.loss, other.loss) and not torch.equal(one.loss, plain.loss)
    assert_same(gradients(objective, one.loss), gradients(objective, other.loss))
