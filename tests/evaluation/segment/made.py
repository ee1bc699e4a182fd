"""Made-up subjects with two organs of one brightness at different places, and an untrained tiny network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from mdae.data.intensity import ZScore
from mdae.data.io import Scan
from mdae.data.preprocess import PreparedScan, Preprocessing, prepare_scan
from mdae.evaluation.segment.volumes import LabelledVolume, labelled
from mdae.networks import preset
from mdae.networks.saved import SavedModel
from mdae.seeding import numpy_generator, torch_generator
from mdae.types import Shape3

CONTRACT = Preprocessing(crop="none", intensity=ZScore("box"))
LABELS = ("background", "left", "right")


def model(patch: Shape3 = (16, 16, 16), channels: tuple[str, ...] = ()) -> SavedModel:
    """Untrained, of one contrast or of several at once."""
    generator = torch_generator(0, "weights")
    network = preset("tiny").new(generator, in_channels=max(1, len(channels))).eval()
    return SavedModel(network, CONTRACT, patch, provenance={}, channels=channels)


def scan(
    subject: int, shape: Shape3 = (24, 20, 16), affine: np.ndarray | None = None
) -> tuple[PreparedScan, np.ndarray]:
    """A prepared scan and its mask on the file's voxels."""
    rng = numpy_generator(0, "organs", subject)
    middles = np.array([[0.3, 0.5, 0.5], [0.7, 0.5, 0.5]]) * shape + rng.uniform(-1.5, 1.5, (2, 3))
    grid = np.stack(np.indices(shape), axis=-1)
    radii = np.linalg.norm(grid[None] - middles[:, None, None, None], axis=-1) / (min(shape) / 5)
    mask = np.zeros(shape, dtype=np.int16)
    for label, radius in enumerate(radii, start=1):
        mask[radius < 1] = label
    data = 100 + 60 * (mask > 0) + 10 * ndimage.gaussian_filter(rng.standard_normal(shape), 0.7)
    affine = np.eye(4) if affine is None else affine
    return prepare_scan(Scan(data.astype(np.float32), affine, Path("made.nii.gz")), CONTRACT), mask


def subjects(number: int, first: int = 0) -> list[LabelledVolume]:
    made = [(f"p{n:02d}", *scan(n)) for n in range(first, first + number)]
    return [labelled(name, prepared, mask) for name, prepared, mask in made]
