"""Every kind of third-party encoders through the same checks, the registry, and the reading of checkpoints."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from mdae.errors import ConfigError, ModelError
from mdae.interop.backbone import Backbone
from mdae.interop.checkpoints import load_strictly, part_of, read_checkpoint, weights_file, without_prefix
from mdae.interop.third_party import THIRD_PARTY, open_third_party
from tests.interop.small import SMALL, write_nnssl, write_scan

KINDS = sorted(THIRD_PARTY)


def opened(kind: str, folder: Path, seed: int = 0) -> Backbone:
    return open_third_party(f"{kind}:{SMALL[kind].write(folder / kind, seed)}")


def the_file(path: Path) -> Path:
    return path if path.is_file() else weights_file(path, ["checkpoint_final.pth"])


@torch.inference_mode()
def features(backbone: Backbone, volume: np.ndarray) -> torch.Tensor:
    return backbone.network.features(torch.from_numpy(volume)[None, None])


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    return write_scan(tmp_path_factory.mktemp("scan") / "scan.nii.gz")


def test_every_kind_has_a_small_checkpoint_to_be_tried_with():
    assert set(SMALL) == set(THIRD_PARTY)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_says_what_it_is(kind):
    known = THIRD_PARTY[kind]
    assert known.name == kind
    assert all((known.title, known.paper, known.licence, known.preprocessing, known.files))


@pytest.mark.parametrize("kind", KINDS)
def test_a_scan_becomes_features_and_they_are_those_of_the_weights(kind, entry, tmp_path):
    backbone = opened(kind, tmp_path)
    volume = backbone.to_input(backbone.prepare(entry))
    assert volume.shape == backbone.patch and volume.dtype == np.float32
    own = features(backbone, volume)
    assert own.shape == (1, backbone.network.num_features) and own.dtype == torch.float32
    assert torch.isfinite(own).all() and own.std() > 0
    again = backbone.to_input(backbone.prepare(entry))
    np.testing.assert_array_equal(again, volume)
    other = features(opened(kind, tmp_path / "other", seed=1), volume)
    assert (other - own).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_of_an_encoder_is_whole(kind, tmp_path):
    backbone = opened(kind, tmp_path)
    raw = the_file(SMALL[kind].write(tmp_path / kind, 0)).read_bytes()
    assert backbone.identity == hashlib.sha256(raw).hexdigest()
    assert backbone.name.startswith(f"{kind}:") and backbone.source
    assert json.loads(json.dumps(backbone.preprocessing)) == backbone.preprocessing


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_of_a_prepared_scan_leads_back_to_its_source(kind, entry, tmp_path):
    prepared = opened(kind, tmp_path).prepare(entry)
    record = prepared.record
    assert record.source == str(entry.path) and record.shape == prepared.data.shape
    centre = (np.array(record.shape) - 1) / 2
    source = np.array(record.crop_start) + (np.array(record.crop_shape) - 1) / 2  # RAS, as the file is
    world = prepared.affine @ [*centre, 1]
    np.testing.assert_allclose(world, np.array(record.source_affine) @ [*source, 1], atol=1e-3)


def tampered(path: Path, change: str, keys: tuple[str, ...]) -> Path:
    """The checkpoint with one weight removed, added or cut."""
    content = torch.load(path, weights_only=True)

    def visit(part: dict) -> None:
        if keys[0] in part:
            for key in keys:
                value = part[key] if change == "cut" else part.pop(key)
                if change == "cut":
                    part[key] = value[: len(value) // 2].clone()
                elif change == "renamed":
                    part[key.rpartition(".")[0] + ".weights"] = value
            return
        for inner in part.values():
            if isinstance(inner, dict):
                visit(inner)

    visit(content)
    torch.save(content, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("change", "complaint"),
    [("removed", "1 keys missing"), ("renamed", "1 left over"), ("cut", "1 of another shape")],
)
def test_weights_fit_or_there_is_one_line(kind, change, complaint, tmp_path):
    path = the_file(SMALL[kind].write(tmp_path, 0))
    with pytest.raises(ModelError) as caught:
        open_third_party(f"{kind}:{tampered(path, change, SMALL[kind].keys)}")
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.where == str(path) and caught.value.mend


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_another_kind_is_one_line(kind, tmp_path):
    torch.save({"state_dict": {"head.weight": torch.ones(2, 2)}}, tmp_path / "other.pth")
    with pytest.raises(ModelError) as caught:
        open_third_party(f"{kind}:{tmp_path / 'other.pth'}")
    assert "\n" not in str(caught.value) and caught.value.mend


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "hook": Payload(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match=r"holds more than weights .*mkdir") as caught:
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec", ["strange:x", "nnssl:", "nnssl", "nnssl:/no/such/file", "nnssl:no/such/file/either"]
)
def test_a_wrong_name_says_what_to_write(spec):
    with pytest.raises((ConfigError, ModelError)) as caught:
        open_third_party(spec)
    message = str(caught.value)
    assert "write" in message and "\n" not in message
    if spec.startswith("strange"):
        assert all(kind in message for kind in THIRD_PARTY)


def test_a_name_on_the_hub_is_fetched_with_what_lies_beside(tmp_path, monkeypatch):
    asked = []
    folder = write_nnssl(tmp_path / "snapshot")

    def fetch(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    backbone = open_third_party("nnssl:somebody/ResEncL-OpenMind-SimCLR")
    assert backbone.name == "nnssl:ResEncL-OpenMind-SimCLR"
    assert asked == [("somebody/ResEncL-OpenMind-SimCLR", name) for name in THIRD_PARTY["nnssl"].files]


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fail(repository: str, name: str) -> str:
        raise LocalEntryNotFoundError("offline\nand more")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        open_third_party("medicalnet:TencentMedicalNet/MedicalNet-Resnet50")
    assert "\n" not in str(caught.value)


def test_the_registry_needs_no_torch():
    check = "import sys, mdae.interop.third_party; print('torch' in sys.modules, 'monai' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "False False"


def test_wrappers_prefixes_and_notes_of_training(tmp_path):
    weights = {"module.backbone.a.weight": torch.ones(2), "module.backbone.b": torch.zeros(1)}
    notes = {"loss": [np.float64(0.5)], "args": argparse.Namespace(lr=0.1), "table": np.arange(3)}
    torch.save({"teacher": {"model": weights}, "logging": notes, "epoch": 3}, tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert set(checkpoint.weights) == {"a.weight", "b"}
    assert checkpoint.others["epoch"] == 3 and checkpoint.others["logging"]["loss"] == [0.5]
    safetensors.torch.save_file(weights, tmp_path / "x.safetensors")
    torch.testing.assert_close(read_checkpoint(tmp_path / "x.safetensors").weights, checkpoint.weights)
    assert without_prefix({}) == {} and part_of(weights, "module.backbone.b") == {
        "": weights["module.backbone.b"]
    }


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", None])
def test_damaged_files_are_one_line(content, tmp_path):
    path = tmp_path / "x.pth"
    if content is None:
        torch.save({"a": torch.ones(1000)}, path)
        content = path.read_bytes()[:1500]
    path.write_bytes(content)
    (tmp_path / "y.safetensors").write_bytes(content)
    for damaged in (path, tmp_path / "y.safetensors"):
        with pytest.raises(ModelError) as caught:
            read_checkpoint(damaged)
        assert "\n" not in str(caught.value)


def test_a_file_without_weights_says_what_it_holds(tmp_path):
    torch.save({"epoch": 3, "args": {"lr": 1.0}}, tmp_path / "x.pth")
    torch.save([torch.ones(1)], tmp_path / "y.pth")
    with pytest.raises(ModelError, match="only epoch, args"):
        read_checkpoint(tmp_path / "x.pth")
    with pytest.raises(ModelError, match="a list"):
        read_checkpoint(tmp_path / "y.pth")


def test_what_is_left_out_is_logged_and_nothing_is_loaded_by_halves(caplog):
    network = nn.Linear(2, 2)
    before = network.weight.clone()
    good = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    with pytest.raises(ModelError, match=r"1 keys missing, e\.g\. bias; 1 left over, e\.g\. beta"):
        load_strictly(network, {"weight": good["weight"], "beta": good["bias"]}, "file")
    torch.testing.assert_close(network.weight, before)
    with caplog.at_level("INFO"):
        load_strictly(network, {**good, "head.w": torch.ones(1)}, "file", ignore={"head.": "the head"})
    assert "1 weights left out: the head" in caplog.text
    torch.testing.assert_close(network.weight, good["weight"])


def test_a_folder_of_several_checkpoints_is_not_guessed_at(tmp_path):
    for name in ("a.pth", "b.pth"):
        torch.save({}, tmp_path / name)
    with pytest.raises(ModelError, match="2 checkpoints there"):
        weights_file(tmp_path)
    assert weights_file(tmp_path, ["b.pth"]) == tmp_path / "b.pth"
    with pytest.raises(ModelError, match="no checkpoint there"):
        weights_file(tmp_path / "nowhere")
