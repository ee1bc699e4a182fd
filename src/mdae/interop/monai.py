"""A MONAI dictionary transform that prepares scans by a model's contract, so that its weights fit into a pipeline."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import Preprocessing
from mdae.interop.raw import prepare_by
from mdae.networks.saved import load_model


def contract_of(model: str | Path | Preprocessing) -> Preprocessing:
    """The contract of a model folder or OWNER/NAME of the Hub, or one as it is; raises `ModelError`."""
    return model if isinstance(model, Preprocessing) else load_model(model).contract


class Prepared(MapTransform):  # type: ignore[misc]
    """Files to prepared volumes (1, D, H, W), z-scores in RAS, as `mdae.load(model)` prepares them.

    It takes the place of LoadImaged, Orientationd, Spacingd, CropForegroundd and the normalisation. The affine maps
    voxels to the scan's own world millimetres; `meta["background"]` is the value for padding.

    >>> Compose([Prepared("image", "run/model"), RandSpatialCropd("image", (96, 96, 96))])

    Args:
        keys: of files in the dictionary.
        model: whose contract: a model folder, OWNER/NAME of the Hub, or a `Preprocessing`.
        allow_missing_keys: leave dictionaries without a key as they are.

    Raises:
        ScanError: when called, for a scan that cannot be read or is unfit.
    """

    def __init__(
        self, keys: KeysCollection, model: str | Path | Preprocessing, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.contract = contract_of(model)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        prepared = dict(data)
        for key in self.key_iterator(prepared):
            path = Path(str(prepared[key]))
            scan = prepare_by(ScanEntry("", "", "", "", path), self.contract)
            meta = {"filename_or_obj": str(path), "background": scan.record.background}
            affine = torch.from_numpy(np.ascontiguousarray(scan.affine))
            prepared[key] = MetaTensor(torch.from_numpy(scan.data)[None], affine=affine, meta=meta)
        return prepared
