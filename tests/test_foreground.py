"""One definition of foreground, for arrays, tensors and crops whose background nobody told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mdae.corruption.foreground import find_background, foreground
from mdae.foreground import is_foreground

SOURCE = Path(__file__).parent.parent / "src" / "mdae"


def test_on_either_side_of_the_background_and_never_where_unknown():
    values = np.array([-1.0, -0.9, -0.5, np.nan, -2.0], dtype=np.float32)
    expected = [False, False, True, False, True]
    assert is_foreground(values, -1.0).tolist() == expected
    assert is_foreground(torch.from_numpy(values), -1.0).tolist() == expected


def test_there_is_one_definition():
    having = [path for path in SOURCE.rglob("*.py") if "ABOVE_BACKGROUND =" in path.read_text()]
    assert having == [SOURCE / "foreground.py"]


def ball() -> torch.Tensor:
    place = torch.stack(torch.meshgrid(*[torch.arange(24.0) - 11.5] * 3, indexing="ij"))
    return place.square().sum(0).sqrt() < 9


@pytest.mark.parametrize(("air", "sd"), [(-1.5, 0.0), (-1.5, 0.03), (0.0, 0.0), (3.0, 0.0)])
def test_a_crops_background_is_what_is_constant_else_the_darkest(air, sd):
    """Air, noisy air, a z-scored brain on 0, and inverted contrast on a bright background."""
    noise = torch.Generator().manual_seed(0)
    inside = ball()
    tissue = torch.randn(24, 24, 24, generator=noise) * 0.4 + 0.3
    volume = torch.where(inside, tissue, air + sd * torch.randn(24, 24, 24, generator=noise))
    found = foreground(volume[None, None], None, per_channel=True)[0, 0]
    assert not (found & ~inside).float().mean() > 0.01
    within = 0.25 / 0.4 if air == 0 else 0.0  # tissue about 0 cannot be told from a background of 0 by itself
    assert (found & inside).sum() / inside.sum() > (0.6 if within else 0.95)


def test_unknown_voxels_do_not_make_the_background():
    volume = torch.full((1, 1, 8, 8, 8), float("nan"))
    volume[..., :3] = torch.linspace(-1, 1, 192).view(8, 8, 3)
    known = ~volume.isnan()
    assert find_background(volume.nan_to_num(), known).item() == -1.0
