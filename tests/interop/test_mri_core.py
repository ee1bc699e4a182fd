"""MRI-CORE: its training checkpoint becomes a plain Vision Transformer; slices from their least to greatest value."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdae.errors import ModelError
from mdae.interop.mri_core import load_mri_core, slice_grey, through_numbered
from mdae.interop.slices import NUM_SLICES
from tests.interop.small import drawn, mri_core_teacher, vit_layout, write_mri_core, write_scan


def test_blocks_within_chunks_are_numbered_through_and_their_weights_loaded(tmp_path):
    plain = drawn(vit_layout(patch=16, grid=4, depth=4, scaled=False))
    teacher = mri_core_teacher()
    assert "backbone.blocks.1.3.norm1.weight" in teacher  # the fourth block lies in the second chunk
    backbone = load_mri_core(write_mri_core(tmp_path), "x")
    loaded = backbone.network.encoder.state_dict()
    assert loaded.keys() == plain.keys() - {"mask_token"}
    assert all(torch.equal(loaded[name], plain[name]) for name in loaded)
    assert through_numbered(plain).keys() == plain.keys()


def test_images_have_the_side_of_pre_training(tmp_path):
    backbone = load_mri_core(write_mri_core(tmp_path), "x")
    assert backbone.patch == (64, 64, NUM_SLICES)  # four patches of 16 pixels; the released one has 14: 224
    encoder = backbone.network.encoder
    assert (
        encoder.positions(*(side // encoder.sizes.patch for side in backbone.patch[:2])) is encoder.pos_embed
    )


def test_heads_of_training_are_left_out_and_said_and_nothing_else_is(tmp_path, caplog):
    with caplog.at_level("INFO"):
        load_mri_core(write_mri_core(tmp_path), "x")
    assert "2 weights left out: a head of its pre-training (dino_head.*)" in caplog.text
    torch.save({"teacher": {**mri_core_teacher(), "neck.0.weight": torch.ones(1)}}, tmp_path / "sam.pth")
    with pytest.raises(ModelError, match=r"1 left over, e\.g\. neck\.0\.weight") as caught:
        load_mri_core(tmp_path / "sam.pth", "x")
    assert "\n" not in str(caught.value)


def test_the_image_encoder_of_sam_is_one_line(tmp_path):
    weights = {
        "image_encoder.pos_embed": torch.zeros(1, 4, 4, 64),
        "image_encoder.patch_embed.proj.weight": torch.zeros(64, 3, 16, 16),
    }
    torch.save(weights, tmp_path / "sam_vit_b.pth")
    with pytest.raises(ModelError, match="not a plain Vision Transformer") as caught:
        load_mri_core(tmp_path / "sam_vit_b.pth", "x")
    assert "\n" not in str(caught.value) and caught.value.mend


def test_each_slice_goes_from_its_least_to_its_greatest_value():
    slices = np.random.default_rng(0).normal(size=(8, 8, 5)).astype(np.float32) * np.arange(
        5, dtype=np.float32
    )
    grey = slice_grey(slices)
    assert grey.dtype == np.float32
    assert (grey[..., 0] == 0).all()  # the empty one
    for place in range(1, 5):
        part = slices[..., place]
        np.testing.assert_allclose(grey[..., place], (part - part.min()) / np.ptp(part), atol=1e-6)
    np.testing.assert_allclose(slice_grey(3 * slices - 7)[..., 1:], grey[..., 1:], atol=1e-5)


def test_a_scan_fills_each_slice_from_black_to_white(tmp_path):
    backbone = load_mri_core(write_mri_core(tmp_path), "x")
    volume = backbone.to_input(backbone.prepare(write_scan(tmp_path / "scan.nii.gz")))
    assert volume.shape == backbone.patch
    np.testing.assert_array_equal(volume.min(axis=(0, 1)), 0)
    np.testing.assert_array_equal(
        volume.max(axis=(0, 1))[2:-2], 1
    )  # the outermost voxels of the file are empty
