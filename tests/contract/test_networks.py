"""Every registered network keeps the contract, and so does one that is written from the documentation alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from mdae.cli import main
from mdae.data.preprocess import Preprocessing
from mdae.errors import ConfigError, ModelError
from mdae.interop.begin import begin_with
from mdae.interop.initial import read_initial
from mdae.networks import PRESETS, NetworkConfig, NetworkSpec, register
from mdae.networks.primus import PrimusConfig
from mdae.networks.registry import PLUGIN
from mdae.networks.saved import SavedModel, load_model, save_model
from mdae.networks.unet import UNetConfig
from mdae.plugin import load_plugin
from tests import contract
from tests.contract import Case, encoders, networks

# Sizes for the checks by kind; each kind that is registered has an entry.
SMALL: dict[str, NetworkConfig] = {
    "residual-unet": UNetConfig(features=(4, 6, 8), blocks=(1, 2, 1), time_dim=8),
    "primus": PrimusConfig(embed_dim=24, depth=2, heads=2, token=4, shape=(8, 8, 12), time_dim=8),
}
KINDS = {spec.kind: spec for spec in PRESETS.values()}
OWN = re.compile(r"<!-- test: own network -->\n```python\n(.*?)```", re.DOTALL)
DOCS = Path(__file__).parent.parent.parent / "docs" / "networks.md"


def small(kind: str) -> NetworkSpec:
    stride = SMALL[kind].stride
    return replace(KINDS[kind], config=SMALL[kind], patch=(2 * stride,) * 3)


@pytest.mark.parametrize("check", networks.QUICK, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_the_contract(kind, check):
    assert KINDS.keys() == SMALL.keys()
    check(small(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_saved_by_its_kind_and_embeds(kind, tmp_path):
    networks.check_it_is_saved_and_embeds(small(kind), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["network"]["kind"] == kind


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_documented_and_takes_its_patch(name):
    spec = PRESETS[name]
    (row,) = [line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    assert f"{spec.patch[0]}³" in row and spec.crop(None) == spec.patch


def test_models_from_before_there_were_kinds_load(tmp_path):
    network = networks.built(small("residual-unet"))
    save_model(tmp_path, SavedModel(network, Preprocessing(), (16, 16, 16)))
    config = json.loads((tmp_path / "config.json").read_text())
    del config["network"]["kind"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    x = networks.volumes(network)
    assert torch.equal(load_model(tmp_path).network(x, networks.T), network(x, networks.T))


@pytest.fixture
def own(tmp_path) -> Path:
    """The documentation's example of a network of one's own, as the file that a reader would write."""
    (text,) = OWN.findall(DOCS.read_text())
    path = tmp_path / "plain.py"
    path.write_text(text)
    yield path
    PRESETS.pop("plain", None)
    sys.modules.pop("mdae_plugin_plain", None)


def test_a_network_written_from_the_documentation_keeps_the_contract(own, store, tmp_path):
    lines = [line for line in own.read_text().splitlines() if line.strip()]
    assert len(lines) < 80
    load_plugin(own)
    for check in networks.QUICK:
        check(PRESETS["plain"])
    volumes = networks.volumes(networks.built(PRESETS["plain"]))
    for check in encoders.QUICK:
        check(lambda: networks.built(PRESETS["plain"]).encoder, volumes)
    networks.check_it_is_saved_and_embeds(PRESETS["plain"], tmp_path / "model")
    contract.check_resumes_exactly(Case("mdae", {"block": "8,8,8"}, network="plain"), store, tmp_path)


@pytest.mark.parametrize(
    "name", ["mdae", "mae", "models-genesis", "volume-fusion", "simclr", "simmim", "swinunetr"]
)
def test_objectives_train_it_through_the_interface_alone(own, name):
    load_plugin(own)
    case = Case(name, {"block": "4,4,4"} if name in ("mdae", "mae", "simmim") else {}, network="plain")
    for check in (
        contract.check_loss_and_gradients_are_finite,
        contract.check_every_weight_of_the_encoder_learns,
        contract.check_pictures_are_volumes,
    ):
        check(case)


TOKENS = {"block": "4,4,4"}  # a mask that hides tokens whole
ON_TOKENS = [
    *(Case(name, TOKENS, "primus-tiny") for name in ("mdae", "mdae-masked", "mae", "simmim", "diffmae")),
    Case("mae", {**TOKENS, "drop_hidden": "true"}, "primus-tiny"),
    *(
        Case(name, {}, "primus-tiny")
        for name in ("spark", "dsm", "models-genesis", "volume-fusion", "simclr")
    ),
    Case("swinunetr", {}, "primus-tiny"),
    Case("voco", {"grid": "2,2,2"}, "primus-tiny"),
]


@pytest.mark.parametrize("case", ON_TOKENS, ids=lambda case: "-".join([case.name, *case.changes]))
def test_objectives_train_a_transformer(case, monkeypatch):
    monkeypatch.setitem(PRESETS, "primus-tiny", small("primus"))
    contract.check_loss_and_gradients_are_finite(case)
    contract.check_pictures_are_volumes(case)


def test_a_transformer_resumes_exactly(store, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "primus-tiny", small("primus"))
    contract.check_resumes_exactly(
        Case("mae", {**TOKENS, "drop_hidden": "true"}, "primus-tiny"), store, tmp_path
    )


def test_an_objective_that_needs_more_says_so(own):
    load_plugin(own)
    with pytest.raises(ConfigError, match="visible voxels alone, as Plain cannot") as caught:
        Case("spark", network="plain").build()
    assert "\n" not in str(caught.value)


def test_it_trains_and_embeds_from_the_command_line(own, store, cohort, tmp_path, monkeypatch, capsys):
    options = ["--steps", "2", "--batch", "2", "--patch", "16", "16", "16", "--network", "plain"]
    command = [sys.executable, "-m", "mdae", "pretrain", store, tmp_path / "run", "--plugin", own, *options]
    subprocess.run(command, check=True)
    model = str(tmp_path / "run" / "model")
    scan = cohort / "sub-A0001" / "anat" / "sub-A0001_T1w.nii.gz"
    embed = ["embed", model, str(scan), "--out", str(tmp_path / "f.parquet")]
    with pytest.raises(SystemExit):
        main(embed)
    said = capsys.readouterr().err
    assert f"kind plain, which no preset has (name the file that registers it: export {PLUGIN}" in said
    monkeypatch.setenv(PLUGIN, str(own))
    main(embed)
    with pytest.raises(SystemExit):
        main(["export", model, str(tmp_path / "w.pth")])
    assert "nnU-Net builds residual U-Nets, not Plain" in capsys.readouterr().err


def test_it_begins_with_the_weights_of_another_run(own, store, tmp_path):
    load_plugin(own)
    spec = PRESETS["plain"]
    source = networks.built(spec)
    save_model(tmp_path / "model", SavedModel(source, Preprocessing(), spec.patch))
    network = spec.new(torch.Generator().manual_seed(1))
    begun = begin_with(network, read_initial(str(tmp_path / "model")), Preprocessing())
    x = networks.volumes(network)
    torch.testing.assert_close(network(x, networks.T), source(x, networks.T))
    assert begun.taken.keys() == {"encoder", "decoder", "time conditioning"}
    with pytest.raises(ConfigError, match="does not fit"):
        begin_with(networks.built(small("residual-unet")), begun.initial, Preprocessing())


@dataclass(frozen=True, kw_only=True)
class OtherConfig(NetworkConfig):
    sizes: dict[str, int] | None = None

    @property
    def stride(self) -> int:
        return 4


UNET = KINDS["residual-unet"]


@pytest.mark.parametrize(
    ("name", "entry", "said"),
    [
        ("tiny", UNET, "'tiny' already"),
        ("My Own", UNET, "lower-case"),
        ("own", replace(UNET, kind="other"), "a kind of its own"),
        ("own", replace(UNET, config=OtherConfig()), "a kind of its own"),
        ("own", replace(UNET, kind="other", config={"width": 8}), "derive it from NetworkConfig"),
        ("own", replace(UNET, patch=(16, 16, 15)), "multiple of"),
    ],
)
def test_a_bad_registration_is_one_line(name, entry, said):
    before = dict(PRESETS)
    with pytest.raises(ConfigError, match=said) as caught:
        register(name, entry)
    assert "\n" not in str(caught.value) and before == PRESETS


def test_a_kind_that_nobody_knows_is_told(tmp_path, monkeypatch):
    save_model(tmp_path, SavedModel(networks.built(small("residual-unet")), Preprocessing(), (16, 16, 16)))
    config = json.loads((tmp_path / "config.json").read_text())
    config["network"]["kind"] = "primrose"
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv(PLUGIN, str(tmp_path / "gone.py"))
    with pytest.raises((ConfigError, ModelError), match="no such Python file"):
        load_model(tmp_path)
    monkeypatch.delenv(PLUGIN)
    with pytest.raises(ModelError, match="kind primrose"):
        load_model(tmp_path)


def test_presets_of_no_name_are_told(capsys, store, tmp_path):
    with pytest.raises(SystemExit):
        main(["pretrain", str(store), str(tmp_path / "run"), "--network", "huge"])
    assert "use one of tiny" in capsys.readouterr().err


def test_a_network_that_breaks_the_contract_is_caught():
    """The checks can fail: one whose fold forgets the decoder, and whose samples see each other."""

    class Leaky(type(UNET.new())):
        def restore(self, x, t=None, head=None):
            return super().restore(x - x.mean(), t, head)

        def fold_time(self, t):
            self.film = None

    spec = replace(small("residual-unet"), build=Leaky)
    for check in (
        networks.check_samples_do_not_see_each_other,
        networks.check_the_fold_equals_the_conditioned_network,
    ):
        with pytest.raises(AssertionError):
            check(spec)
