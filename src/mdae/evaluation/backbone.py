"""Our own models as backbones: folded at t = 0, every stage pooled, the middle window of a scan as input."""

from __future__ import annotations

import numpy as np
import torch

from mdae.data.preprocess import PreparedScan
from mdae.evaluation.encoder import Encoder
from mdae.evaluation.windows import cut_window, window_starts
from mdae.interop.backbone import Backbone, PooledEncoder


def backbone_of(encoder: Encoder, name: str, identity: str) -> Backbone:
    """One of our own encoders, ready to be fine-tuned."""
    network, patch = encoder.network, encoder.patch

    def fit(prepared: PreparedScan) -> np.ndarray:
        (start,) = window_starts(prepared.data.shape, patch, centre_only=True)
        volume = torch.from_numpy(np.ascontiguousarray(prepared.data, dtype=np.float32))
        return cut_window(volume, start, patch, prepared.record.background).numpy()

    return Backbone(
        name=name,
        identity=identity,
        network=PooledEncoder(network),
        preprocessing={"contract": encoder.contract.to_dict(), "fit": "middle window"},
        prepare=encoder.prepare,
        fit=fit,
        patch=patch,
        num_features=encoder.num_features,
        stem="encoder.stem.convs.0.conv",
        groups=[network.stem, *network.stages],
        source="a model folder of mdae",
        pretraining=encoder.provenance.get("scans"),
        spacing_mm=encoder.contract.spacing_mm,
    )
