"""What segments from few masks, by the encoder's name: a model of ours, an untrained one, place and intensities."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import PreparedScan, Preprocessing
from mdae.errors import ConfigError
from mdae.evaluation.features.encoder import Encoder, resolve_device
from mdae.evaluation.features.extractors import OF_VOXELS, POSITION, is_own, own_model
from mdae.evaluation.features.histogram import OF_NO_SCAN
from mdae.evaluation.segment.features import VoxelFeatures
from mdae.evaluation.segment.fitted import voxel_features
from mdae.interop.raw import prepare_by
from mdae.networks.hub import local_folder
from mdae.networks.saved import SavedModel, load_model

_, PLACE, INTENSITIES = OF_VOXELS


@dataclass(frozen=True)
class Source:
    """Whose maps are read.

    Attributes:
        name: for tables.
        fingerprint: the same for the same maps of the same scan, and only then.
        identity: what tells its weights from others'.
        contract: how scans are prepared.
        model: pre-trained or not; None for place and intensities alone.
        pretraining: salted hashes of the scans that it was pre-trained on; None if nobody knows.
        device: where to compute.
    """

    name: str
    fingerprint: str
    identity: str
    contract: Preprocessing
    model: SavedModel | None
    pretraining: Mapping[str, Any] | None
    device: str
    _encoder: Encoder | None = field(default=None, repr=False)

    def features(self, context: bool) -> VoxelFeatures:
        """What is known of a voxel.

        Args:
            context: whether place and intensities stand beside the network's maps.
        """
        if self.model is not None:
            return voxel_features(self.model, context, self.device)
        return VoxelFeatures(None, place=self.name != INTENSITIES, intensities=self.name != PLACE)

    @property
    def channels(self) -> tuple[str, ...]:
        """The contrasts that the network sees at once, in order; none if it sees them one by one."""
        return () if self.model is None else self.model.channels

    def prepare(self, scan: ScanEntry) -> PreparedScan:
        """Read and prepare a raw scan, or the scans of a session; raises `ScanError` for an unfit one."""
        return prepare_by(scan, self.contract) if self._encoder is None else self._encoder.read(scan)


def open_source(spec: str, device: str = "auto") -> Source:
    """By the encoder's name.

    Args:
        spec: a model folder, `untrained:PRESET`, or place and intensities without a network (`position`) or one of
            them (`place`, `intensities`), of scans prepared by the default contract, or as a model's are
            (`position:MODEL`).
        device: where to compute.

    Raises:
        ModelError, ConfigError: no such model, or an encoder that is not ours.
    """
    where = str(resolve_device(device))
    kind, _, like = spec.partition(":")
    if kind in OF_VOXELS:
        contract = load_model(local_folder(like)).contract if like else Preprocessing()
        return Source(kind, _digest(kind, contract), kind, contract, None, OF_NO_SCAN, where)
    if not is_own(spec):
        raise ConfigError(
            f"no voxels of {Path(spec).name} can be read",
            mend=f"--protocol voxels and segment are for encoders of mdae pretrain, untrained: and {POSITION}",
        )
    model, name, identity = own_model(spec)
    fingerprint = _digest(identity, model.contract, list(model.patch))
    pretraining = model.provenance.get("scans")
    encoder = Encoder(model, where)
    return Source(name, fingerprint, identity, model.contract, model, pretraining, where, encoder)


def _digest(identity: str, contract: Preprocessing, *others: Any) -> str:
    return hashlib.sha256(json.dumps([identity, contract.to_dict(), *others]).encode()).hexdigest()
