"""A TorchIO transform that prepares images by a model's contract, so that its weights fit into a pipeline.

TorchIO comes with `pip install mdae[torchio]`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio

from mdae.data.io import Scan
from mdae.data.preprocess import Preprocessing, prepare_scan
from mdae.errors import ScanError
from mdae.networks.saved import load_model


class Prepared(tio.Transform):  # type: ignore[misc]
    """Scalar images to prepared volumes (1, D, H, W), z-scores in RAS, as `mdae.load(model)` prepares them.

    It takes the place of ToCanonical, Resample, CropOrPad and ZNormalization; label maps stay as they are. The affine
    maps voxels to the image's own world millimetres.

    Args:
        model: whose contract: a model folder, OWNER/NAME of the Hub, or a `Preprocessing`.
        options: of `torchio.Transform`: p, include, exclude.

    Raises:
        ScanError: when called, for an image of several channels or one that is unfit.
    """

    def __init__(self, model: str | Path | Preprocessing, **options: Any) -> None:
        super().__init__(**options)
        self.contract = model if isinstance(model, Preprocessing) else load_model(model).contract
        self.args_names = ["contract"]

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Prepare every scalar image of a subject."""
        for image in subject.get_images(intensity_only=True):
            path = Path(str(image.path or "image"))
            data = np.asarray(image.data, dtype=np.float32)
            if len(data) != 1:
                raise ScanError(f"{len(data)} channels", where=path, mend="give images of one each")
            prepared = prepare_scan(Scan(data[0], np.asarray(image.affine), path), self.contract)
            volume = np.nan_to_num(prepared.data, nan=prepared.record.background)
            image.set_data(torch.from_numpy(volume)[None])
            image.affine = prepared.affine
        return subject
