"""Primus between nnssl and here: OpenMind's keys are read, a model of ours is read back by nnssl's layout."""

from __future__ import annotations

import json

import pytest
import torch

from mdae.data.preprocess import Preprocessing
from mdae.errors import ConfigError, ModelError
from mdae.interop import nnssl_primus
from mdae.interop.begin import begin_with
from mdae.interop.configs import ExportConfig
from mdae.interop.export import export
from mdae.interop.initial import read_initial
from mdae.interop.nnssl import load_nnssl
from mdae.networks.primus import Primus, PrimusConfig
from mdae.networks.saved import SavedModel, save_model
from tests.contract.networks import built, close
from tests.networks.test_primus import SPEC

SIDES = (16, 16, 24)
CONFIG = PrimusConfig(embed_dim=36, depth=2, heads=2, token=8, shape=SIDES, time_dim=8)


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """A small model, its export, and how it was built."""
    monkeypatch.setitem(nnssl_primus.SIZES, "PrimusS", (36, 2, 2))
    network = built(SPEC.__class__(**{**vars(SPEC), "config": CONFIG, "patch": SIDES}))
    save_model(tmp_path / "model", SavedModel(network, Preprocessing(), SIDES))
    export(ExportConfig(model=tmp_path / "model", out=tmp_path / "nnssl", format="nnssl"))
    return network, tmp_path / "nnssl"


def test_what_nnssl_reads_is_what_we_computed(exported):
    network, folder = exported
    plan = json.loads((folder / "adaptation_plan.json").read_text())
    assert plan["architecture_plans"]["arch_class_name"] == "PrimusS"
    assert plan["key_to_lpe"] == "eva.pos_embed"
    backbone = load_nnssl(folder, "ours")
    x = torch.randn(1, 1, *SIDES)
    expected = network.at(0.0).encoder(x)[0].mean(dim=(2, 3, 4))
    torch.testing.assert_close(backbone.network.features(x.transpose(2, 4)), expected, rtol=1e-5, atol=1e-5)
    assert backbone.network.num_features == 36 and backbone.patch == SIDES[::-1]
    assert sum(len(list(g.parameters())) for g in backbone.network.groups()) == len(
        list(backbone.network.parameters())
    )


def test_a_pre_training_begins_with_it(exported):
    network, folder = exported
    fresh = Primus(CONFIG)
    begun = begin_with(fresh, read_initial(str(folder)), Preprocessing())
    x = torch.randn(1, 1, *SIDES)
    close(fresh.encoder(x), network.at(0.0).encoder(x))
    assert any("decoder" in line for line in begun.lines())


def test_blocks_without_scales_add_all_that_they_say(exported):
    _, folder = exported
    saved = torch.load(folder / "checkpoint_final.pth", weights_only=True)["network_weights"]
    left = {name: value for name, value in saved.items() if "gamma" not in name}
    found = nnssl_primus.primus_weights(left)
    assert torch.equal(found["eva.blocks.1.gamma_2"], torch.ones(36))


@pytest.mark.parametrize("name", ["register_tokens", "encoder.register_tokens"])
def test_register_tokens_are_refused_by_name(exported, name):
    _, folder = exported
    saved = torch.load(folder / "checkpoint_final.pth", weights_only=True)
    saved["network_weights"][name] = torch.zeros(1, 4, 36)
    torch.save(saved, folder / "checkpoint_final.pth")
    for read in (lambda: load_nnssl(folder, "theirs"), lambda: read_initial(str(folder))):
        with pytest.raises(ModelError, match="a Primus with 4 register tokens") as caught:
            read()
        assert "\n" not in str(caught.value) and caught.value.mend


def test_sizes_that_nnssl_has_no_name_for_are_refused(tmp_path):
    save_model(tmp_path / "model", SavedModel(built(SPEC), Preprocessing(), SPEC.patch))
    with pytest.raises(ConfigError, match="no name"):
        export(ExportConfig(model=tmp_path / "model", out=tmp_path / "nnssl", format="nnssl"))
    with pytest.raises(ConfigError, match="residual"):
        export(ExportConfig(model=tmp_path / "model", out=tmp_path / "x.pth"))
