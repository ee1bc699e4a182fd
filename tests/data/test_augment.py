"""Augmentation: what is drawn is what is applied, in space and not in voxels; unknown stays unknown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from mdae.data import augment
from mdae.data.augment import Augmentation, apply, draw, margin
from mdae.errors import ConfigError
from mdae.options import AugmentOptions
from mdae.seeding import torch_generator

PATCH = (12, 10, 14)
SPACING = (1.0, 2.0, 1.5)
EVERYTHING = AugmentOptions(flip=0.5, rotate_deg=20, scale=0.3, gain=0.2, shift=0.1, gamma=0.3)


def generators(*samples: int) -> list[torch.Generator]:
    return [torch_generator(0, "augmentation", sample) for sample in samples]


def smooth(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    noise = np.random.default_rng(seed).normal(size=shape)
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, 2, 2, 2)).astype(np.float32) * 10)


def enlarged(options: AugmentOptions) -> tuple[int, ...]:
    return tuple(
        side + 2 * beyond for side, beyond in zip(PATCH, margin(options, PATCH, SPACING), strict=True)
    )


def augmented(options: AugmentOptions, crops: torch.Tensor, drawn: Augmentation, known=None):
    return apply(drawn, crops, known, options=options, patch=PATCH, spacing_mm=SPACING)


def test_nothing_is_done_by_default():
    options = AugmentOptions()
    assert not options.any and margin(options, PATCH, SPACING) == (0, 0, 0)
    crops = smooth((2, 1, *PATCH))
    out, known = augmented(options, crops, draw(options, generators(0, 1)))
    assert torch.equal(out, crops) and known is None


def test_a_batch_is_its_samples_and_a_draw_replays():
    crops = smooth((3, 1, *enlarged(EVERYTHING)))
    whole, _ = augmented(EVERYTHING, crops, draw(EVERYTHING, generators(4, 5, 6)))
    assert whole.shape == (3, 1, *PATCH)
    for i, sample in enumerate((4, 5, 6)):
        drawn = draw(EVERYTHING, generators(sample))
        for _ in range(2):
            single, _ = augmented(EVERYTHING, crops[i : i + 1], drawn)
            torch.testing.assert_close(single[0], whole[i], rtol=0, atol=1e-5)


def test_places_are_those_of_affine_grid():
    theta = torch.randn((2, 3, 3), generator=torch_generator(0, "theta"))
    grid = F.affine_grid(F.pad(theta.flip(1, 2), (0, 1)), [2, 1, *PATCH], align_corners=False)
    torch.testing.assert_close(augment._places(theta, PATCH), grid, rtol=0, atol=1e-5)


def test_turning_equals_scipys_affine_transform_in_millimetres():
    options = AugmentOptions(rotate_deg=25, scale=0.25)
    crops = smooth((1, 1, *enlarged(options)))
    drawn = draw(options, generators(7))
    ours, _ = augmented(options, crops, drawn)
    step = np.diag(SPACING)
    voxels = np.linalg.inv(step) @ drawn.turn[0].double().numpy() @ step
    middle_old = (np.array(crops.shape[2:]) - 1) / 2
    middle_new = (np.array(PATCH) - 1) / 2
    offset = middle_old - voxels @ middle_new
    scipys = ndimage.affine_transform(crops[0, 0].numpy(), voxels, offset=offset, output_shape=PATCH, order=1)
    np.testing.assert_allclose(ours[0, 0].numpy(), scipys, atol=1e-3)


def test_a_turn_is_a_rotation_in_space_with_the_drawn_size():
    options = AugmentOptions(rotate_deg=30, scale=0.5)
    for turn in draw(options, generators(*range(20))).turn.double():
        size = torch.linalg.det(turn) ** (1 / 3)
        assert 1 / 1.5 - 1e-6 <= size <= 1.5 + 1e-6
        torch.testing.assert_close(turn @ turn.T / size**2, torch.eye(3).double(), rtol=0, atol=1e-6)


def test_no_corner_is_made_up():
    """Whatever is drawn, no voxel of the patch lies outside of what the margin brought along."""
    options = AugmentOptions(rotate_deg=45, scale=0.4)
    crops = torch.ones(64, 1, *enlarged(options))
    crops[:, :, 0], crops[:, :, -1] = 9.0, 9.0
    crops[:, :, :, 0], crops[:, :, :, -1] = 9.0, 9.0
    crops[..., 0], crops[..., -1] = 9.0, 9.0
    out, _ = augmented(options, crops, draw(options, generators(*range(64))))
    assert out.max() < 9.0, "the rim may be touched by interpolation, never left"


def test_flips_are_exact_and_as_often_as_wanted():
    options = AugmentOptions(flip=0.5)
    crops = smooth((200, 1, *PATCH))
    drawn = draw(options, generators(*range(200)))
    out, _ = augmented(options, crops, drawn)
    for i in range(5):
        axes = [2 + axis for axis in range(3) if drawn.flip[i, axis]]
        assert torch.equal(out[i], crops[i : i + 1].flip(axes)[0])
    assert 0.4 < drawn.flip.float().mean() < 0.6
    assert draw(AugmentOptions(flip=1.0), generators(0)).flip.all()


def test_intensities_stay_in_range_and_in_order():
    options = AugmentOptions(gamma=0.5)
    crops = smooth((4, 1, *PATCH))
    out, _ = augmented(options, crops, draw(options, generators(0, 1, 2, 3)))
    for before, after in zip(crops, out, strict=True):
        assert after.min() == pytest.approx(before.min().item(), abs=1e-4)
        assert after.max() == pytest.approx(before.max().item(), abs=1e-4)
        order = before.flatten().argsort()
        assert (after.flatten()[order].diff() > -1e-5).all()


def test_unknown_voxels_stay_unknown_and_tell_nothing():
    known = torch.ones(2, 1, *enlarged(EVERYTHING), dtype=torch.bool)
    known[:, :, :, :, known.shape[-1] // 2 :] = False
    crops = smooth((2, 1, *known.shape[2:]))
    drawn = draw(EVERYTHING, generators(1, 2))
    other = torch.where(known, crops, torch.zeros(()))
    out, sure = augmented(EVERYTHING, other, drawn, known)
    assert sure is not None and sure.shape == (2, 1, *PATCH) and 0.1 < sure.float().mean() < 0.9
    assert (out[~sure] == 0).all()
    plain, _ = augmented(AugmentOptions(rotate_deg=20, scale=0.3, flip=0.5), crops, drawn)
    masked, seen = augmented(AugmentOptions(rotate_deg=20, scale=0.3, flip=0.5), other, drawn, known)
    torch.testing.assert_close(plain[seen], masked[seen], rtol=0, atol=0.15)  # 1 % of a neighbour's weight


def test_contrasts_are_augmented_alike_and_one_that_is_lacking_takes_nothing_from_the_others():
    crops = torch.cat([smooth((2, 1, *enlarged(EVERYTHING)), seed) * (seed + 1) for seed in (0, 1)], dim=1)
    known = torch.ones_like(crops, dtype=torch.bool)
    known[1, 1] = False
    crops = crops.masked_fill(~known, 0.0)
    drawn = draw(EVERYTHING, generators(4, 5))
    both, sure = augmented(EVERYTHING, crops, drawn, known)
    for c in range(2):
        alone, own = augmented(EVERYTHING, crops[:, c : c + 1], drawn, known[:, c : c + 1])
        torch.testing.assert_close(both[:, c : c + 1], alone, rtol=0, atol=1e-5)
        assert torch.equal(sure[:, c : c + 1], own)
    assert both[1, 0].any() and not both[1, 1].any()


@pytest.mark.parametrize("changes", [{"flip": 2.0}, {"rotate_deg": 90.0}, {"gain": -1.0}])
def test_nonsense_is_refused(changes):
    with pytest.raises(ConfigError):
        AugmentOptions(**changes)
