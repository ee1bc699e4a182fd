"""What goes beyond the paper in the denoising family: preconditioning, a term for edges, no time, foreground."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdae.corruption import Coefficients, Schedule, apply, draw
from mdae.data.preprocess import Preprocessing
from mdae.errors import ConfigError
from mdae.inference.restore import restore
from mdae.networks.saved import SavedModel
from mdae.objectives import DenoisingConfig, build_objective, objective_config
from mdae.objectives.detail import gradient_term
from mdae.objectives.precondition import network_input, prediction_from, scales
from mdae.objectives.registry import describe
from mdae.seeding import torch_generator
from tests import reference
from tests.objectives.test_denoising import (
    SHAPE,
    assert_same,
    generators,
    gradients,
    network,
    volumes,
)

SMALL = {"block": "4,4,4"}


def built(name: str = "mdae", **changes: str):
    return build_objective(name, network(), changes={**SMALL, **changes})


# -- preconditioning ----------------------------------------------------------------------------------------------


def test_the_scales_are_those_of_edm():
    """Karras et al. 2022, Table 1, for variance exploding noise and sigma_data = 1."""
    sigma = torch.tensor([0.0, 0.1, 1.0, 7.0])
    skip, out, into = scales(Coefficients(torch.ones(4), sigma))
    torch.testing.assert_close(skip, 1 / (sigma**2 + 1))
    torch.testing.assert_close(out, sigma / (sigma**2 + 1).sqrt())
    torch.testing.assert_close(into, 1 / (sigma**2 + 1).sqrt())
    assert (skip[0], out[0], into[0]) == (1, 0, 1), "without noise the input is the answer, exactly"


def test_endless_noise_is_the_network_alone_as_on_masked_voxels():
    skip, out, into = scales(Coefficients(torch.ones(1), torch.tensor([1e12])))
    assert skip.item() < 1e-20 and into.item() < 1e-11 and out.item() == 1.0
    for kind in ("vp", "flow"):
        skip, out, _ = scales(Schedule(kind=kind).at(torch.ones(1)))
        assert skip.item() == 0 and out.item() == 1.0


@pytest.mark.parametrize("kind", ["ve", "vp", "flow"])
def test_the_network_sees_unit_variance_and_is_asked_for_unit_variance(kind):
    coefficients = Schedule(kind=kind, sigma_max=3.0).at(torch.tensor([0.3, 0.8]))
    alpha, sigma = (value.view(-1, 1, 1, 1, 1) for value in coefficients)
    clean, noise = (torch.randn(2, 1, 40, 40, 40, generator=torch_generator(0, n)) for n in ("x", "z"))
    seen = alpha * clean + sigma * noise
    everywhere = torch.ones_like(seen, dtype=torch.bool)
    assert network_input(seen, everywhere, coefficients).std((1, 2, 3, 4)).tolist() == pytest.approx(
        [1, 1], abs=0.02
    )
    nothing = prediction_from(torch.zeros_like(seen), seen, everywhere, coefficients)
    wanted = (clean - nothing) / scales(coefficients).out.view(-1, 1, 1, 1, 1)
    assert wanted.std((1, 2, 3, 4)).tolist() == pytest.approx([1, 1], abs=0.02)


@pytest.mark.parametrize("name", ["mdae", "dsm", "diffmae"])
def test_a_preconditioned_loss_matches_a_slow_reading(name):
    objective, clean = built(name, precondition="true"), volumes()
    config = objective.config
    drawn = draw(config.corruption, (1, *SHAPE), generators())
    corrupted = apply(config.corruption, clean, drawn)
    predictions = []
    for index in range(3):
        alpha, sigma = (float(value[index]) for value in corrupted.coefficients)
        mask = corrupted.mask[index : index + 1].numpy()
        noised = mask if name == "diffmae" else ~mask
        t = corrupted.t[index : index + 1]

        def run(x: np.ndarray, t: torch.Tensor = t) -> np.ndarray:
            with torch.no_grad():
                return objective.network(torch.from_numpy(x).float(), t).numpy()

        seen = corrupted.input[index : index + 1].numpy()
        predictions.append(reference.preconditioned(run, seen, noised, alpha, sigma))
    masks = np.broadcast_to(corrupted.mask.numpy(), clean.shape)
    kind, sigma_max = config.corruption.schedule.kind, config.corruption.schedule.sigma_max
    weights = [
        reference.weight(config.weighting, config.w_max, *reference.coefficients(kind, sigma_max, float(t)))
        for t in drawn.t
    ]
    expected = reference.loss(
        np.concatenate(predictions),
        clean.numpy(),
        masks,
        weights,
        lambda_masked=float(config.supervise != "visible"),
        lambda_visible=float(config.supervise != "masked"),
    )
    assert objective(clean, generators()).loss.item() == pytest.approx(expected, rel=1e-4)


def test_masked_voxels_are_exactly_0_to_a_preconditioned_network():
    objective, clean = built(precondition="true", p_min="0.5", p_max="0.5"), volumes()
    given = []
    objective.network.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    objective(clean, generators())
    mask = apply(
        objective.config.corruption, clean, draw(objective.config.corruption, (1, *SHAPE), generators())
    ).mask
    assert mask.any() and not given[0][mask].any() and given[0][~mask].all()


def test_without_noise_preconditioning_changes_nothing_of_what_is_masked():
    """sigma_max = 0: loss and gradients are MAE's, bit for bit, preconditioned or not."""
    clean, ratio = volumes(), {"p_min": "0.75", "p_max": "0.75"}
    ours, mae = built(precondition="true", sigma_max="0", **ratio), built("mae")
    one, other = ours(clean, generators()), mae(clean, generators())
    assert torch.equal(one.loss, other.loss)
    assert_same(gradients(ours, one.loss), gradients(mae, other.loss))


# -- edges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_the_gradient_term_matches_a_slow_reading(channels, share):
    shape = (2, channels, 4, 5, 6)
    prediction, clean = (torch.randn(shape, generator=torch_generator(0, name)) for name in ("p", "c"))
    region = torch.rand((2, 1, 4, 5, 6), generator=torch_generator(0, "region")) < share
    ours = gradient_term(prediction, clean, region)
    for index in range(2):
        inside = np.broadcast_to(region[index].numpy(), shape[1:])
        expected = reference.gradient_term(prediction[index].numpy(), clean[index].numpy(), inside)
        assert ours[index].item() == pytest.approx(expected, rel=1e-5)
    if share == 1.0:
        assert torch.equal(ours, gradient_term(prediction, clean, None))


def test_the_gradient_term_is_the_voxels_error_by_frequency():
    """Parseval, on an error that vanishes at the border: 4 sin^2(w / 2) along each axis."""
    error = torch.zeros(1, 1, 10, 10, 10, dtype=torch.float64)
    error[..., 2:-2, 2:-2, 2:-2] = torch.randn(6, 6, 6, generator=torch_generator(0, "e"))
    spectrum = torch.fft.fftn(error, dim=(2, 3, 4)).abs() ** 2 / 1000
    gain = 4 * torch.sin(torch.pi * torch.fft.fftfreq(10, dtype=torch.float64)) ** 2
    weights = gain[:, None, None] + gain[None, :, None] + gain[None, None, :]
    expected = (spectrum * weights).sum() / (3 * 9 * 100)
    ours = gradient_term(error, torch.zeros_like(error), None)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("supervise", ["both", "masked", "visible"])
def test_the_gradient_term_is_added_where_the_loss_is_taken(supervise):
    clean = volumes()
    known = torch.ones(3, 1, *SHAPE, dtype=torch.bool)
    known[:, :, :5] = False
    plain = built(supervise=supervise)
    ours = built(supervise=supervise, lambda_gradient="0.5")
    one, other = plain(clean, generators(), known), ours(clean, generators(), known)
    corruption = ours.config.corruption
    corrupted = apply(corruption, clean, draw(corruption, (1, *SHAPE), generators()))
    prediction = ours.network(corrupted.input.masked_fill(~known, 0), corrupted.t)
    region = {"both": known, "masked": corrupted.mask & known, "visible": ~corrupted.mask & known}[supervise]
    term = gradient_term(prediction, clean, region).mean()
    torch.testing.assert_close(other.loss - one.loss, 0.5 * term, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.logs["gradient"], term.detach(), rtol=1e-5, atol=0)
    assert "gradient" not in one.logs


# -- time, foreground ---------------------------------------------------------------------------------------------


def test_an_unconditioned_network_is_told_no_time_and_trains_no_film():
    objective, clean = built(conditioned="false"), volumes()
    told = []
    objective.network.register_forward_pre_hook(lambda module, inputs: told.append(inputs[1]))
    trained = gradients(objective, objective(clean, generators()).loss)
    assert told == [None] and not any(".film." in name for name in trained)
    plain = built()
    assert any(".film." in name for name in gradients(plain, plain(clean, generators()).loss))


def test_blocks_of_background_enter_no_term():
    """What the network makes of them changes neither loss nor gradient."""
    objective, clean = built(foreground="true", lambda_gradient="0.5"), volumes()
    clean = clean.abs() + 0.5
    clean[..., 8:] = -1.0
    forward = objective.network.forward
    losses = []
    for offset in (0.0, 5.0):
        shift = torch.zeros(SHAPE)
        shift[..., 8:] = offset

        def moved(x: torch.Tensor, t: torch.Tensor, shift: torch.Tensor = shift) -> torch.Tensor:
            return forward(x, t) + shift

        objective.network.forward = moved
        output = objective(clean, generators())
        losses.append((output.loss, gradients(objective, output.loss)))
    assert torch.equal(losses[0][0], losses[1][0]) and losses[0][0] > 0
    assert_same(losses[0][1], losses[1][1])


def test_a_term_with_a_negative_weight_is_refused():
    with pytest.raises(ConfigError, match="negative"):
        objective_config("mdae", changes={"lambda_gradient": -1})


# -- all of it, and back --------------------------------------------------------------------------------------------

EVERYTHING = {
    "precondition": "true",
    "lambda_gradient": "0.3",
    "foreground": "true",
    "edges": "4,8",
    "fill": "noise",
    "times.kind": "low_noise",
}


def test_all_options_together_keep_unknown_voxels_out_and_samples_apart():
    objective, clean = built(**EVERYTHING), volumes()
    known = torch.ones(3, 1, *SHAPE, dtype=torch.bool)
    known[:, :, 3:7, 5:, :9] = False
    one, other = (objective(torch.where(known, clean, value), generators(), known) for value in (0.0, 9.0))
    assert torch.equal(one.loss, other.loss)
    assert_same(gradients(objective, one.loss), gradients(objective, other.loss))
    alone = [
        objective(clean[i : i + 1], generators()[i : i + 1], known[i : i + 1]).loss.item() for i in range(3)
    ]
    masked = clean.where(known, torch.tensor(0.0))
    assert objective(masked, generators(), known).loss.item() == pytest.approx(np.mean(alone), rel=1e-5)


@pytest.mark.parametrize("changes", [{}, EVERYTHING, {"conditioned": "false", "precondition": "true"}])
def test_reconstruction_repeats_what_the_objective_does(changes):
    """One window over the whole volume: the picture of evaluation and `mdae reconstruct` agree."""
    changes = {**changes, "p_min": "0.5", "p_max": "0.5", "t_min": "0.4", "t_max": "0.4"}
    objective, clean = built(**changes), volumes(1)
    config: DenoisingConfig = objective.config
    record = describe("mdae", config)
    model = SavedModel(objective.network.eval(), Preprocessing(), SHAPE, record)
    restored = restore(model, clean[0, 0].numpy(), 0.5, 0.4, seed=3)
    objective.eval()
    with torch.no_grad():
        output = objective(clean, [torch_generator(3, "reconstruct")])
    for name, ours in (("corrupted", restored.corrupted), ("reconstructed", restored.restored)):
        np.testing.assert_allclose(ours, output.pictures[name][0, 0].numpy(), atol=2e-5)
