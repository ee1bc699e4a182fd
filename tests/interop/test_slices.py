"""Networks of images on volumes: which slices, how they lie, their colours, the mean, memory, several contrasts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from mdae.interop import slices
from mdae.interop.raw import prepare_by
from mdae.interop.slices import CONTRACT, IMAGENET_MEAN, IMAGENET_STD, NUM_SLICES, SliceNetwork, head_slices
from mdae.interop.vit import VisionTransformer, ViTSizes
from tests.interop.small import drawn, vit_layout, write_scan

SIDE = 28


class Watched(nn.Module):
    """In place of a network of images: keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = SimpleNamespace(width=3)
        self.shown: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown.append(images)
        return images.mean(dim=(2, 3))


def small_network(seed: int = 0) -> SliceNetwork:
    weights = drawn(vit_layout(grid=2), seed)
    del weights["mask_token"]
    encoder = VisionTransformer(ViTSizes.of(weights, "file"))
    encoder.load_state_dict(weights)
    return SliceNetwork(encoder).eval()


def drawn_volume(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def images_of(volume: torch.Tensor) -> torch.Tensor:
    """The images (slices, 3, rows, columns) of a volume (D, H, W), voxel by voxel."""
    d, h, w = volume.shape
    images = torch.zeros(w, 3, h, d)
    for place in range(w):
        for row in range(h):
            for column in range(d):
                grey = volume[d - 1 - column, h - 1 - row, place]  # right is left, front is up
                for colour in range(3):
                    images[place, colour, row, column] = (grey - IMAGENET_MEAN[colour]) / IMAGENET_STD[colour]
    return images


def test_images_lie_as_radiologists_look_at_them_in_imagenets_colours():
    network = SliceNetwork(Watched())  # type: ignore[arg-type]
    volume = drawn_volume(1, 1, 4, 5, 3)
    network(volume)
    torch.testing.assert_close(torch.cat(network.encoder.shown), images_of(volume[0, 0]))


def test_features_are_the_mean_over_slices_whatever_goes_through_at_once(monkeypatch):
    network = small_network()
    volumes = drawn_volume(2, 1, SIDE, SIDE, 7)
    want = torch.stack([network.encoder(images_of(volume[0])).mean(0) for volume in volumes])
    for at_once in (32, 4, 1):
        monkeypatch.setattr(slices, "AT_ONCE", at_once)
        torch.testing.assert_close(network.features(volumes), want, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_activations_that_are_kept():
    network = small_network()
    volumes = drawn_volume(1, 1, SIDE, SIDE, 5)
    network.features(volumes).square().sum().backward()
    got = {name: weight.grad.clone() for name, weight in network.named_parameters()}
    network.zero_grad()
    network.encoder(images_of(volumes[0, 0])).mean(0).square().sum().backward()
    for name, weight in network.named_parameters():
        torch.testing.assert_close(got[name], weight.grad, rtol=1e-3, atol=1e-4)


def test_activations_are_computed_again_only_where_gradients_are_wanted(monkeypatch):
    calls = []

    def again(function, part, **_):
        calls.append(part)
        return function(part)

    monkeypatch.setattr(slices, "checkpoint", again)
    network, volume = small_network(), drawn_volume(1, 1, SIDE, SIDE, 2)
    with torch.no_grad():
        network(volume)
    network.requires_grad_(False)(volume)
    assert not calls
    network.requires_grad_(True)(volume)
    assert len(calls) == 1


def test_a_widened_stem_sees_the_colours_of_one_contrast_after_those_of_another():
    network, volumes = small_network(), drawn_volume(1, 2, SIDE, SIDE, 3)
    first, second = volumes[:, :1], volumes[:, 1:]
    alone = network.features(first)
    network.widen(2)
    torch.testing.assert_close(network.features(torch.cat([first, first], 1)), alone, rtol=1e-4, atol=1e-4)
    with torch.no_grad():  # the second contrast unheard, the first heard whole
        weight = network.encoder.patch_embed.proj.weight
        weight[:, 3:] = 0
        weight[:, :3] *= 2
    torch.testing.assert_close(network.features(torch.cat([first, second], 1)), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", [1, 3])
def test_slices_of_a_volume_of_their_size_are_the_volume(order):
    volume = drawn_volume(12, 12, NUM_SLICES).numpy()
    np.testing.assert_allclose(head_slices(volume, 0.0, 12, order=order), volume, atol=1e-5)


def test_bicubic_slices_do_not_leave_the_range_of_the_volume():
    volume = np.zeros((9, 9, NUM_SLICES), np.float32)
    volume[3:6, 3:6] = 1
    slices = head_slices(volume, 0.0, 40, order=3)
    assert slices.min() == 0 and slices.max() == 1


def test_the_shorter_side_is_centred_in_background():
    out = head_slices(np.ones((6, 12, NUM_SLICES), np.float32), -3.0, 12, order=3)
    assert out.shape == (12, 12, NUM_SLICES) and out.dtype == np.float32
    assert (out[:3] == -3).all() and (out[9:] == -3).all()
    np.testing.assert_allclose(out[3:9], 1, atol=1e-5)


@pytest.mark.parametrize("place", [0, 17, 41, 42, 43, 100, 199])
def test_nothing_lies_between_two_slices(place):
    volume = np.zeros((4, 4, 200), np.float32)
    volume[..., place] = 1
    seen = head_slices(volume, 0.0, 4, order=3).sum(axis=2)
    assert seen.min() > 0.5 * NUM_SLICES / 200


def test_slices_follow_the_head_from_its_lowest_to_its_highest():
    volume = np.broadcast_to(np.arange(200, dtype=np.float32), (4, 4, 200))
    heights = head_slices(volume, 0.0, 4, order=3)[2, 2]
    np.testing.assert_allclose(
        heights[2:-2], (np.arange(NUM_SLICES) + 0.5)[2:-2] * 200 / NUM_SLICES - 0.5, atol=0.05
    )


def test_what_was_defaced_is_background(tmp_path):
    entry = write_scan(tmp_path / "scan.nii.gz")
    image = nib.load(entry.path)
    mask = np.zeros(image.shape, np.uint8)
    mask[10:20, 22:30, 8:16] = 1
    nib.save(nib.Nifti1Image(mask, image.affine), tmp_path / "mask.nii.gz")
    prepared = prepare_by(replace(entry, anonymisation_mask=tmp_path / "mask.nii.gz"), CONTRACT)
    place = np.linalg.inv(prepared.affine) @ image.affine @ [15, 26, 12, 1]
    assert prepared.record.unknown > 0.01
    assert prepared.data[tuple(np.rint(place[:3]).astype(int))] == np.float32(prepared.record.background)
    assert np.isfinite(head_slices(prepared.data, prepared.record.background, 14, order=3)).all()
