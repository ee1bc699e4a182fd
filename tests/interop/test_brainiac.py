"""BrainIAC's encoders against MONAI's networks, and their preprocessing against MONAI's transforms, which they use."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import (
    Compose,
    EnsureChannelFirst,
    LoadImage,
    NormalizeIntensity,
    Resize,
    ScaleIntensity,
)

from mdae.errors import ModelError, ScanError
from mdae.interop.brainiac import load_brainiac
from tests.interop.small import small_resnet, small_vit, write_brainiac, write_scan


def write_first_release(folder, seed: int = 0):
    folder.mkdir(parents=True, exist_ok=True)
    weights = small_resnet(seed, bias_downsample=True).state_dict()
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in weights.items()}}, folder / "BrainIAC.ckpt")
    return folder


def test_the_vit_computes_what_its_authors_network_computes(tmp_path):
    backbone = load_brainiac(write_brainiac(tmp_path), "x")
    x = torch.randn(2, 1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens, _ = small_vit()(x)
        own = backbone.network.features(x)
    torch.testing.assert_close(own, tokens[:, 0], rtol=1e-5, atol=1e-5)
    assert (own - tokens.mean(dim=1)).abs().max() > 1e-3


def test_later_monais_layers_that_are_never_computed_make_no_difference(tmp_path, caplog):
    weights = {f"backbone.{k}": v for k, v in small_vit().state_dict().items()}
    assert any("norm_cross_attn" in name for name in weights)
    weights["backbone.blocks.0.cross_attn.to_q.weight"] = torch.ones(24, 24)
    (tmp_path / "new").mkdir()
    torch.save({"state_dict": weights}, tmp_path / "new" / "BrainIAC.ckpt")
    x = torch.randn(1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), caplog.at_level("INFO"):
        new = load_brainiac(tmp_path / "new", "x").network.features(x)
        old = load_brainiac(write_brainiac(tmp_path / "old"), "x").network.features(x)
    torch.testing.assert_close(new, old, rtol=0, atol=0)
    assert "cross-attention, which is not computed" in caplog.text


def test_heads_are_left_out_aloud_and_fine_tuned_models_have_a_backbone_within(tmp_path, caplog):
    weights = {k: v for k, v in small_vit().state_dict().items() if "cross_attn" not in k}
    tuned = {f"model.backbone.backbone.{k}": v for k, v in weights.items()}
    tuned["model.classifier.fc.weight"] = torch.ones(1, 24)
    torch.save({"state_dict": tuned}, tmp_path / "idh.ckpt")
    x = torch.randn(1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), caplog.at_level("INFO"):
        own = load_brainiac(tmp_path / "idh.ckpt", "x").network.features(x)
        released = load_brainiac(write_brainiac(tmp_path / "released"), "x").network.features(x)
    torch.testing.assert_close(own, released, rtol=0, atol=0)
    assert caplog.text.count("1 weights left out, not of the backbone") == 2


def test_the_first_release_computes_what_monais_resnet_computes(tmp_path):
    backbone = load_brainiac(write_first_release(tmp_path), "x")
    assert backbone.patch == (128, 128, 128)
    x = torch.randn(2, 1, 40, 48, 40, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = small_resnet(bias_downsample=True)(x)
        own = backbone.network.features(x)
    torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR"])
@pytest.mark.parametrize("release", [write_first_release, write_brainiac])
def test_a_scan_is_prepared_by_its_authors_transforms(release, axes, tmp_path):
    backbone = load_brainiac(release(tmp_path / "b"), "x")
    entry = write_scan(tmp_path / "scan.nii.gz", (30, 34, 28), axes=axes)
    normalise = (
        NormalizeIntensity(nonzero=True, channel_wise=True) if release is write_brainiac else ScaleIntensity()
    )
    load = Compose([LoadImage(), EnsureChannelFirst(), Resize(backbone.patch, mode="trilinear"), normalise])
    expected = np.asarray(load(entry.path))[0]
    np.testing.assert_allclose(backbone.to_input(backbone.prepare(entry)), expected, atol=1e-4)


def test_another_layout_is_refused_in_one_line(tmp_path):
    weights = {f"backbone.{k}": v for k, v in small_vit().state_dict().items()}
    weights["backbone.patch_embedding.position_embeddings"] = torch.ones(1, 28, 24)
    torch.save({"state_dict": weights}, tmp_path / "BrainIAC.ckpt")
    with pytest.raises(ModelError, match="28 tokens"):
        load_brainiac(tmp_path, "x")


@pytest.mark.parametrize(("release", "length"), [(write_first_release, 320), (write_brainiac, 60)])
def test_a_scan_of_one_intensity_is_set_aside(release, length, tmp_path):
    entry = write_scan(tmp_path / "scan.nii.gz")
    data = np.zeros((length, 9, 9), np.float32)
    data[2] = 1  # a slice that resizing to two fifths steps over
    nib.save(nib.Nifti1Image(data, np.eye(4)), entry.path)
    with pytest.raises(ScanError, match="constant"):
        load_brainiac(release(tmp_path / "b"), "x").prepare(entry)
