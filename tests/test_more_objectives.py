"""The two further objectives that are tried: their terms against what they are by definition."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from mdae.networks import preset
from mdae.objectives import OBJECTIVES, build_objective
from mdae.options import ObjectiveOptions
from mdae.plugin import run_file
from mdae.seeding import torch_generator
from recipes.few_labels_encoders import PLUGIN

NAMES = ("mdae-spectral", "mdae-spread")


@pytest.fixture
def plugin():
    """The file as `--plugin` runs it; other tests never see its names."""
    yield run_file(PLUGIN, "registers objectives")
    for name in NAMES:
        OBJECTIVES.pop(name, None)
    sys.modules.pop(f"mdae_plugin_{PLUGIN.stem}", None)


def test_the_spectral_term_is_the_mean_error_of_the_orthonormal_transform(plugin):
    rng = np.random.default_rng(0)
    prediction, clean = rng.standard_normal((2, 2, 1, 4, 6, 8)).astype(np.float32)
    found = plugin.spectral_term(torch.from_numpy(prediction), torch.from_numpy(clean))
    whole = np.fft.rfftn(prediction - clean, axes=(2, 3, 4), norm="ortho")
    assert float(found) == pytest.approx(np.abs(whole).mean(), rel=1e-5)
    assert float(plugin.spectral_term(torch.from_numpy(clean), torch.from_numpy(clean))) == 0


def test_features_that_are_the_same_or_tell_the_same_are_penalised(plugin):
    spread = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).standard_normal((64, 4)))[0])
    spread = spread - spread.mean(0)
    spread = 2 * np.sqrt(63) * torch.linalg.qr(spread)[0]  # variances of 4, nothing shared
    assert float(plugin.spread_term(spread)) == pytest.approx(0, abs=1e-4)
    assert float(plugin.spread_term(torch.ones(8, 5))) == pytest.approx(1, abs=0.02)
    twice = torch.cat([spread[:, :1], spread[:, :1]], dim=1)
    assert float(plugin.spread_term(twice)) == pytest.approx(2 * 4.0**2 / 2 / 25, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_mdae_with_one_more_term(name, plugin):
    weight = "lambda_" + name.removeprefix("mdae-")

    def step(objective, changes):
        network = preset("tiny").new(torch_generator(0, "weights"), in_channels=1)
        made = build_objective(
            objective, network, ObjectiveOptions(), changes, generator=torch_generator(0, "heads")
        )
        clean = torch.randn(2, 1, 16, 16, 16, generator=torch_generator(0, "clean"))
        return made(clean, [torch_generator(0, "draw", index) for index in range(2)], None)

    changes = {"corruption.block": "4,4,4"}
    plain, none = step("mdae", changes), step(name, {**changes, weight: "0"})
    assert none.loss.item() == pytest.approx(plain.loss.item(), rel=1e-6)
    more = step(name, {**changes, weight: "3"})
    term = float(more.logs[name.removeprefix("mdae-")])
    assert term > 0 and more.loss.item() == pytest.approx(plain.loss.item() + 3 * term, rel=1e-5)
    more.loss.backward()
