"""DINOv2: its own files and the transformers library's are one network; grey values; what its record says."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import safetensors.torch
import torch

from mdae.errors import ModelError
from mdae.interop.dinov2 import from_transformers, load_dinov2, volume_grey
from mdae.interop.slices import NUM_SLICES
from tests.interop.small import drawn, vit_layout, write_dinov2, write_scan


def as_transformers(weights: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    """The names of the transformers library, written out."""
    named = {
        "embeddings.cls_token": weights["cls_token"],
        "embeddings.mask_token": weights["mask_token"],
        "embeddings.position_embeddings": weights["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": weights["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": weights["patch_embed.proj.bias"],
        "layernorm.weight": weights["norm.weight"],
        "layernorm.bias": weights["norm.bias"],
    }
    if "register_tokens" in weights:
        named["embeddings.register_tokens"] = weights["register_tokens"]
    for number in range(2):
        ours, theirs = f"blocks.{number}", f"encoder.layer.{number}"
        for kind in ("weight", "bias"):
            query, key, value = weights[f"{ours}.attn.qkv.{kind}"].chunk(3)
            named[f"{theirs}.attention.attention.query.{kind}"] = query.clone()
            named[f"{theirs}.attention.attention.key.{kind}"] = key.clone()
            named[f"{theirs}.attention.attention.value.{kind}"] = value.clone()
            named[f"{theirs}.attention.output.dense.{kind}"] = weights[f"{ours}.attn.proj.{kind}"]
            for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                named[f"{theirs}.{part}.{kind}"] = weights[f"{ours}.{part}.{kind}"]
        for branch in (1, 2):
            named[f"{theirs}.layer_scale{branch}.lambda1"] = weights[f"{ours}.ls{branch}.gamma"]
    return {prefix + name: value for name, value in named.items()}


@pytest.mark.parametrize(
    ("registers", "prefix"), [(0, ""), (0, "dinov2."), (4, ""), (4, "dinov2_with_registers.")]
)
def test_the_files_of_the_transformers_library_hold_the_same_network(registers, prefix, tmp_path):
    weights = drawn(vit_layout(registers=registers))
    torch.save(weights, tmp_path / "dinov2_vits14_pretrain.pth")
    (tmp_path / "hub").mkdir()
    safetensors.torch.save_file(as_transformers(weights, prefix), tmp_path / "hub" / "model.safetensors")
    own = load_dinov2(tmp_path / "dinov2_vits14_pretrain.pth", "own").network.state_dict()
    theirs = load_dinov2(tmp_path / "hub", "theirs").network.state_dict()
    assert own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)
    for name, value in weights.items():
        assert name == "mask_token" or torch.equal(own[f"encoder.{name}"], value)


def test_a_projection_of_attention_that_is_missing_is_named(tmp_path):
    weights = as_transformers(drawn(vit_layout()))
    del weights["encoder.layer.1.attention.attention.key.bias"]
    torch.save(weights, tmp_path / "x.bin")
    with pytest.raises(ModelError, match=r"1 keys missing, e\.g\. blocks\.1\.attn\.qkv\.bias") as caught:
        load_dinov2(tmp_path / "x.bin", "x")
    assert "\n" not in str(caught.value)


def test_names_of_the_released_files_are_left_as_they_are():
    weights = drawn(vit_layout())
    assert from_transformers(weights).keys() == weights.keys()


def test_the_giant_of_another_perceptron_is_one_line(tmp_path):
    weights = {
        name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): value
        for name, value in drawn(vit_layout()).items()
    }
    torch.save(weights, tmp_path / "dinov2_vitg14_pretrain.pth")
    with pytest.raises(ModelError, match=r"mlp\.fc1") as caught:
        load_dinov2(tmp_path / "dinov2_vitg14_pretrain.pth", "g")
    assert "\n" not in str(caught.value) and caught.value.mend


def test_what_is_left_out_is_said(tmp_path, caplog):
    with caplog.at_level("INFO"):
        load_dinov2(write_dinov2(tmp_path), "x")
    assert "1 weights left out: stands for hidden patches" in caplog.text


def test_grey_goes_from_black_to_white_between_two_percentiles():
    slices = np.random.default_rng(0).normal(size=(20, 20, 10)).astype(np.float32)
    grey = volume_grey(slices)
    low, high = np.sort(slices.ravel())[[20, -21]]  # of 4,000 values, half a percent
    assert grey.dtype == np.float32 and grey.min() == 0 and grey.max() == 1
    np.testing.assert_allclose(grey, np.clip((slices - low) / (high - low), 0, 1), atol=5e-3)
    assert (volume_grey(np.full((4, 4, 4), 3, np.float32)) == 0).all()


def test_a_scan_in_any_orientation_and_scale_is_the_same_to_the_network(tmp_path):
    backbone = load_dinov2(write_dinov2(tmp_path), "x")
    assert backbone.patch == (224, 224, NUM_SLICES) and backbone.network.num_features == 64
    assert json.loads(json.dumps(backbone.preprocessing)) == backbone.preprocessing
    entry = write_scan(tmp_path / "scan.nii.gz")
    image = nib.load(entry.path)
    turn = nib.orientations.ornt_transform(*map(nib.orientations.axcodes2ornt, ("RAS", "PSL")))
    louder = nib.Nifti1Image(7 * image.get_fdata(dtype=np.float32), image.affine).as_reoriented(turn)
    nib.save(louder, tmp_path / "turned.nii.gz")
    first = backbone.to_input(backbone.prepare(entry))
    second = backbone.to_input(backbone.prepare(replace(entry, path=tmp_path / "turned.nii.gz")))
    assert first.min() == 0 and first.max() == 1 and np.median(first[:5, :5]) == 0  # air is black
    np.testing.assert_allclose(second, first, atol=1e-3)
