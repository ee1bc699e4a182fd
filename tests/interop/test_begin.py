"""Networks that begin with weights of elsewhere compute what those computed, and say what was taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mdae.data.preprocess import Preprocessing
from mdae.errors import ConfigError, ModelError
from mdae.interop import initial as initial_module
from mdae.interop.begin import begin_with
from mdae.interop.export import export_encoder, export_nnssl
from mdae.interop.initial import read_initial
from mdae.interop.nnunet import nnunet_weights
from mdae.networks.saved import SavedModel, manifest, overlap, save_model
from mdae.networks.unet import ResidualUNet, UNetConfig
from mdae.seeding import torch_generator
from tests.interop.small import adaptation_plan, res_enc, write_nnssl
from tests.interop.test_nnunet import network_of_the_plan, random_network

CONFIG = UNetConfig(features=(4, 6, 8), blocks=(1, 2, 1), time_dim=16)
X = torch.randn((1, 1, 16, 24, 20), generator=torch_generator(0, "volume"))
CONTRACT = Preprocessing()


def fresh(config: UNetConfig = CONFIG) -> ResidualUNet:
    return ResidualUNet(config, generator=torch_generator(7, "fresh")).eval()


def saved(folder: Path, network: ResidualUNet, **provenance: object) -> Path:
    contract = Preprocessing(spacing_mm=(2.0, 2.0, 2.0))
    save_model(folder, SavedModel(network, contract, (16, 16, 16), {"name": "mdae"}, dict(provenance)))
    return folder


@torch.no_grad()
def test_an_nnssl_checkpoint_goes_on_as_it_was_axes_turned(tmp_path):
    """Theirs is shown (z, y, x), ours (x, y, z): the same head gives the same maps and the same prediction."""
    theirs, network = res_enc(), fresh()
    begun = begin_with(network, read_initial(str(write_nnssl(tmp_path / "MAE"))), CONTRACT)
    expected = theirs(X.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
    for t in (None, torch.tensor([0.7])):  # conditioning begins as the identity
        torch.testing.assert_close(network(X, t), expected, rtol=1e-4, atol=1e-4)
    said = "\n".join(begun.lines())
    assert "nnssl, BaseMAETrainer" in said and "weights of the decoder" in said
    assert "turned from (z, y, x) to (x, y, z)" in said


@torch.no_grad()
def test_contrastive_checkpoints_have_no_decoder_and_that_is_said(tmp_path):
    theirs, network = res_enc(), fresh()
    weights = {k: v for k, v in theirs.state_dict().items() if k.startswith("encoder.")}
    content = {
        "network_weights": weights,
        "nnssl_adaptation_plan": adaptation_plan(),
        "trainer_name": "SimCLR",
    }
    torch.save(content, tmp_path / "checkpoint_final.pth")
    drawn = network.decoder.stages[0].convs[0].conv.weight.clone()
    begun = begin_with(network, read_initial(str(tmp_path)), CONTRACT)
    assert torch.equal(network.decoder.stages[0].convs[0].conv.weight, drawn)
    assert set(begun.taken) == {"encoder"} and "  not taken: decoder: there is none" in "\n".join(
        begun.lines()
    )


def nnunet_checkpoint(folder: Path, network: torch.nn.Module, transpose: list[int]) -> Path:
    """As nnU-Net's trainer saves it, three channels and classes."""
    plans = {"transpose_forward": transpose, "configurations": {}}
    content = {
        "network_weights": network.state_dict(),
        "optimizer_state": {"state": {}},
        "init_args": {
            "plans": plans,
            "configuration": "3d_fullres",
            "fold": 0,
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
    }
    folder.mkdir(parents=True)
    torch.save(content, folder / "checkpoint_final.pth")
    torch.save(content, folder / "checkpoint_best.pth")
    return folder


@torch.no_grad()
@pytest.mark.parametrize("transpose", [[0, 1, 2], [1, 0, 2]])
def test_an_nnunet_checkpoint_of_several_channels(tmp_path, transpose):
    ours = random_network()
    theirs = network_of_the_plan(ours.config, 3).eval()
    theirs.load_state_dict(nnunet_weights(ours, 3), strict=False)
    folder = nnunet_checkpoint(tmp_path / "fold_0", theirs, transpose)
    network = fresh(ours.config)
    begun = begin_with(network, read_initial(str(folder)), CONTRACT)
    x = torch.randn((1, 1, 16, 24, 32), generator=torch_generator(1, "volume"))
    shown = x.permute(0, 1, 4, 3, 2).permute(0, 1, *(2 + axis for axis in transpose))
    expected = theirs.encoder(shown.repeat(1, 3, 1, 1, 1))[-1]
    back = expected.permute(0, 1, *(2 + transpose.index(axis) for axis in (2, 1, 0)))
    torch.testing.assert_close(network.encoder(x)[-1], back, rtol=1e-4, atol=1e-4)
    said = "\n".join(begun.lines())
    assert "3 channels summed to one" in said and "heads of 3 classes" in said
    assert "optimizer_state" in said and "nnU-Net, nnUNetTrainer" in said


@torch.no_grad()
def test_a_model_of_ours_keeps_its_time_or_is_folded(tmp_path):
    source = random_network(CONFIG)
    run = saved(tmp_path / "run" / "model", source, subjects=manifest(["ADNI-002-S-0001"])).parent
    network, t = fresh(), torch.tensor([0.3])
    begun = begin_with(network, read_initial(str(run)), CONTRACT)
    torch.testing.assert_close(network(X, t), source(X, t))
    assert begun.taken.keys() == {"encoder", "decoder", "time conditioning"}
    assert "spacing_mm was [2.0, 2.0, 2.0] and is" in "\n".join(begun.lines())
    assert overlap(manifest(["siteA/sub-01"], begun.initial.seen["subjects"]), ["ADNI-002-S-0001", "x"]) == [
        "ADNI-002-S-0001"
    ]
    timeless = fresh()
    timeless.freeze_time()
    begun = begin_with(timeless, read_initial(str(run)), CONTRACT)
    torch.testing.assert_close(timeless(X, None), source(X, torch.zeros(1)), rtol=1e-4, atol=1e-4)
    assert "folded at t = 0" in "\n".join(begun.lines())


@torch.no_grad()
def test_the_encoder_alone(tmp_path):
    source, network = random_network(CONFIG), fresh()
    drawn = {name: value.clone() for name, value in network.decoder.state_dict().items()}
    begin_with(network, read_initial(str(saved(tmp_path / "m", source))), CONTRACT, decoder=False)
    assert all(torch.equal(drawn[name], value) for name, value in network.decoder.state_dict().items())
    torch.testing.assert_close(network.encoder(X), source.encoder(X))


@torch.no_grad()
def test_what_export_writes_comes_back(tmp_path):
    source = random_network(CONFIG)
    model = SavedModel(source, CONTRACT, (16, 16, 16))
    export_encoder(model, tmp_path / "encoder.safetensors")
    export_nnssl(model, tmp_path / "nnssl")
    for place in (tmp_path / "encoder.safetensors", tmp_path / "nnssl"):
        network = fresh()
        begin_with(network, read_initial(str(place)), CONTRACT)
        torch.testing.assert_close(network.encoder(X), source.at(0.0).encoder(X), rtol=1e-4, atol=1e-4)


def test_the_hub_gives_what_a_folder_gives(tmp_path, monkeypatch):
    folder, asked = saved(tmp_path / "snapshot", random_network(CONFIG)), []
    monkeypatch.setattr(
        initial_module, "local_folder", lambda spec, patterns: asked.append((spec, patterns)) or folder
    )
    for place in ("MIC-DKFZ/ResEncL-OpenMind-MAE@v1.0", "owner/model", "openmind-mae"):
        assert read_initial(place).kind == "mdae"
    specs = [spec for spec, _ in asked]
    assert specs == ["MIC-DKFZ/ResEncL-OpenMind-MAE@v1.0", "owner/model", "MIC-DKFZ/ResEncL-OpenMind-MAE"]
    assert "*.pth" in asked[0][1] and "*.py" not in asked[0][1]


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (UNetConfig(features=(4, 6, 9), blocks=(1, 2, 1)), "does not fit --network tiny.*another shape"),
        (UNetConfig(features=(4, 6, 8, 8), blocks=(1, 2, 1, 1)), "missing.*as no preset has"),
    ],
)
def test_an_encoder_of_another_shape_is_refused(tmp_path, network, said):
    with pytest.raises(ConfigError, match=said):
        begin_with(fresh(network), read_initial(str(write_nnssl(tmp_path))), CONTRACT, name="tiny")


def test_the_preset_that_fits_is_named(tmp_path):
    tiny = UNetConfig(features=(8, 16, 32, 64), blocks=(1, 1, 1, 1))
    folder = saved(tmp_path / "m", ResidualUNet(tiny))
    with pytest.raises(ConfigError, match="use --network tiny"):
        begin_with(fresh(), read_initial(str(folder)), CONTRACT)


def test_what_is_no_such_thing_is_one_line(tmp_path):
    (tmp_path / "plans.json").write_text(json.dumps({"a": 1}))
    torch.save({"state_dict": {"encoder.layer.0.weight": torch.ones(2)}}, tmp_path / "other.pth")
    flat = res_enc().state_dict()
    flat["decoder.transpconvs.1.weight"] = torch.ones(6, 4, 1, 2, 2)
    torch.save({"network_weights": flat}, tmp_path / "flat.pth")
    for place, said in (
        ("other.pth", "no weights under"),
        ("flat.pth", "a stride of 1x2x2"),
        ("none", "OWNER/REPO"),
    ):
        with pytest.raises(ModelError, match=said):
            read_initial(str(tmp_path / place))
