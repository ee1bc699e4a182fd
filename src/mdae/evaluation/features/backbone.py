"""Our own models as backbones: folded at t = 0, every stage pooled, the middle window of a scan as input."""

from __future__ import annotations

import numpy as np

from mdae.data.preprocess import PreparedScan
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.features.session import PreparedSession
from mdae.interop.backbone import Backbone
from mdae.interop.raw import centred


def backbone_of(encoder: Encoder, name: str, identity: str) -> Backbone:
    """One of our own encoders, ready to be fine-tuned."""
    patch = encoder.patch

    def to_input(prepared: PreparedScan) -> np.ndarray:
        if isinstance(prepared, PreparedSession):
            channels = zip(prepared.data, prepared.background, strict=True)
            return np.stack([centred(own, patch, value) for own, value in channels])
        return centred(prepared.data, patch, prepared.record.background)

    return Backbone(
        name=name,
        identity=identity,
        network=encoder.network,
        preprocessing={"contract": encoder.contract.to_dict(), "fit": "middle window"},
        prepare=encoder.read,
        to_input=to_input,
        patch=patch,
        source="a model folder of mdae",
        pretraining=encoder.provenance.get("scans"),
        spacing_mm=encoder.contract.spacing_mm,
        channels=encoder.channels,
    )
