"""`mdae export`: what other systems read is what we computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from mdae.cli import main
from mdae.data.intensity import PRESETS
from mdae.data.preprocess import Preprocessing
from mdae.errors import ConfigError
from mdae.interop.configs import ExportConfig
from mdae.interop.export import adaptation_plan, export
from mdae.interop.nnssl import load_nnssl
from mdae.interop.nnunet import nnunet_weights
from mdae.networks.registry import built
from mdae.networks.saved import SavedModel, load_model, save_model
from mdae.networks.unet import ResidualUNet, UNetConfig
from mdae.seeding import torch_generator
from tests.interop.test_nnunet import planned

SMALL = UNetConfig(features=(4, 6, 6, 8), blocks=(1, 2, 1, 1), time_dim=16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = ResidualUNet(SMALL)
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch_generator(0, "w", index)))
    folder = tmp_path_factory.mktemp("run") / "model"
    save_model(folder, SavedModel(network, Preprocessing(), (16, 24, 32)))
    return folder


def test_nnu_net_weights_and_plans_ready_for_its_commands(model, tmp_path, capsys):
    given = tmp_path / "preprocessed" / "nnUNetResEncUNetLPlans.json"
    given.parent.mkdir()
    given.write_text(json.dumps(planned()))
    out = tmp_path / "ours.pth"
    main(["export", str(model), str(out), "--channels", "4", "--plans", str(given)])
    saved = torch.load(out, weights_only=True)["network_weights"]
    expected = nnunet_weights(load_model(model).network, 4)
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], value) for name, value in expected.items())
    plans = json.loads((given.parent / "ours.json").read_text())
    assert plans["plans_name"] == "ours"
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [32, 24, 16]
    said = capsys.readouterr().out
    assert "nnUNetv2_preprocess -d ID -plans_name ours -c 3d_fullres" in said
    assert f"-p ours -pretrained_weights {out}" in said
    assert json.loads(given.read_text()) == planned(), "the given plans stay as they are"


def test_the_number_of_channels_is_the_models_own_if_left_out(model, tmp_path):
    export(ExportConfig(model=model, out=tmp_path / "one.pth"))
    weights = torch.load(tmp_path / "one.pth", weights_only=True)["network_weights"]
    assert weights["encoder.stem.convs.0.conv.weight"].shape[1] == 1


def test_the_plain_encoder_needs_nothing_but_its_file(model, tmp_path):
    path = tmp_path / "encoder.safetensors"
    export(ExportConfig(model=model, out=path, format="encoder"))
    with safetensors.safe_open(path, "pt") as file:
        about = file.metadata()
    encoder = built(json.loads(about["network"])).encoder
    encoder.load_state_dict(safetensors.torch.load_file(path))
    x = torch.randn((1, 1, 16, 24, 16), generator=torch_generator(0, "volume"))
    ours = load_model(model).network.at(0.0).encoder
    assert all(torch.equal(one, other) for one, other in zip(encoder(x), ours(x), strict=True))
    assert Preprocessing.from_dict(json.loads(about["preprocessing"])) == Preprocessing()


def test_nnssls_checkpoint_read_back_gives_our_features(model, tmp_path):
    export(ExportConfig(model=model, out=tmp_path / "nnssl", format="nnssl"))
    backbone = load_nnssl(tmp_path / "nnssl", "ours")
    assert backbone.patch == (32, 24, 16) and backbone.preprocessing["axes"] == "RAS, z first"
    x = torch.randn((1, 1, 16, 24, 32), generator=torch_generator(0, "volume"))
    stages = load_model(model).network.at(0.0).encoder(x)
    expected = torch.cat([stage.mean(dim=(2, 3, 4)) for stage in stages], dim=1)
    torch.testing.assert_close(backbone.network.features(x.transpose(2, 4)), expected, atol=1e-5, rtol=1e-5)


def test_nnssls_plan_is_in_the_checkpoint_and_beside_it_and_builds_the_network(model, tmp_path):
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    export(ExportConfig(model=model, out=tmp_path / "nnssl", format="nnssl"))
    saved = torch.load(tmp_path / "nnssl" / "checkpoint_final.pth", weights_only=True)
    beside = json.loads((tmp_path / "nnssl" / "adaptation_plan.json").read_text())
    plan = adaptation_plan(load_model(model))
    assert saved["nnssl_adaptation_plan"] == plan and beside == {**plan, "trainer_name": "mdae"}
    kwargs = dict(plan["architecture_plans"]["arch_kwargs"])
    for name in plan["architecture_plans"]["arch_kwargs_requiring_import"]:
        kwargs[name] = getattr(torch.nn, kwargs[name].rpartition(".")[2])
    theirs = unet.ResidualEncoderUNet(input_channels=1, num_classes=2, **kwargs)
    for part in (plan["key_to_encoder"], plan["key_to_stem"]):  # as its fine-tuning forks load them, strictly
        inner = {
            name.removeprefix(f"{part}."): value
            for name, value in saved["network_weights"].items()
            if name.startswith(f"{part}.")
        }
        theirs.get_submodule(part).load_state_dict(inner)
    assert all(theirs.get_submodule(name).in_channels == 1 for name in plan["keys_to_in_proj"])


def test_intensities_that_the_other_system_does_not_know_are_left_to_the_user(tmp_path):
    contract = Preprocessing(intensity=PRESETS["ct-soft"])
    save_model(tmp_path / "model", SavedModel(ResidualUNet(SMALL), contract, (16, 24, 32)))
    lines = export(ExportConfig(model=tmp_path / "model", out=tmp_path / "nnssl", format="nnssl"))
    lines += export(ExportConfig(model=tmp_path / "model", out=tmp_path / "ours.pth"))
    assert sum("scaled by ct-soft" in line for line in lines) == 2
    plan = json.loads((tmp_path / "nnssl" / "adaptation_plan.json").read_text())
    (configuration,) = plan["pretrain_plan"]["configurations"].values()
    assert configuration["normalization_schemes"] == ["NoNormalization"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"out": "x.bin"}, r"\.pth"),
        ({"out": "x.pth", "format": "encoder"}, r"\.safetensors"),
        ({"out": "x", "format": "nnssl", "channels": 4}, "--channels"),
        ({"out": "x.pth", "channels": 0}, "1 or more"),
        ({"out": "x.pth", "plans": Path("plans") / "x.json"}, "another name"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        ExportConfig(model=Path("model"), **{**options, "out": Path(options["out"])})


def test_plans_that_are_none_are_refused_before_anything_is_written(model, tmp_path):
    (tmp_path / "plans.json").write_text("{")
    with pytest.raises(ConfigError, match="JSON"):
        export(ExportConfig(model=model, out=tmp_path / "x.pth", plans=tmp_path / "plans.json"))
    assert not (tmp_path / "x.pth").exists()
