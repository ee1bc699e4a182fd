"""Whatever turns a scan into features, behind one interface: our encoders, untrained ones, and a trivial baseline."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Protocol

import numpy as np

from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import PreparedScan, Preprocessing
from mdae.data.workers import prepare_entry
from mdae.errors import ConfigError
from mdae.evaluation.configs import Pool, WindowMode
from mdae.evaluation.encoder import ABOVE_BACKGROUND, Encoder, resolve_device
from mdae.networks import ResidualUNet, preset
from mdae.networks.saved import WEIGHTS, SavedModel
from mdae.seeding import torch_generator

HISTOGRAM = np.linspace(-4, 4, 41)
UNTRAINED, BASELINE = "untrained", "histogram"


class Extractor(Protocol):
    """Scans to features.

    Attributes:
        name: for tables.
        fingerprint: the same for the same features of the same scan, and only then.
    """

    name: str
    fingerprint: str

    def prepare(self, entry: ScanEntry) -> PreparedScan:
        """Read and prepare a scan; may run in threads. Raises `ScanError` for an unfit one."""

    def features(self, prepared: PreparedScan) -> np.ndarray:
        """The features (F,), float32, of a prepared scan."""


class EncoderExtractor:
    """A frozen encoder of ours.

    Args:
        encoder: folded.
        name: for tables.
        identity: what tells its weights from others'.
        window, pool: as in `Encoder.embed`.
    """

    def __init__(self, encoder: Encoder, name: str, identity: str, window: WindowMode, pool: Pool) -> None:
        self.encoder, self.name, self.window, self.pool = encoder, name, window, pool
        about = [identity, encoder.contract.to_dict(), list(encoder.patch), window, pool]
        self.fingerprint = _digest(json.dumps(about))

    def prepare(self, entry: ScanEntry) -> PreparedScan:
        return self.encoder.prepare(entry)

    def features(self, prepared: PreparedScan) -> np.ndarray:
        background = prepared.record.background
        return self.encoder.embed_volume(prepared.data, background, window=self.window, pool=self.pool)


class Histogram:
    """What any encoder has to beat: how often each intensity occurs in the head, and how large the head is."""

    name = BASELINE

    def __init__(self) -> None:
        self.contract = Preprocessing()
        self.fingerprint = _digest(json.dumps([BASELINE, 1, self.contract.to_dict()]))

    def prepare(self, entry: ScanEntry) -> PreparedScan:
        return prepare_entry(entry, self.contract)

    def features(self, prepared: PreparedScan) -> np.ndarray:
        head = prepared.data[prepared.data > prepared.record.background + ABOVE_BACKGROUND]
        shares = np.histogram(head, bins=HISTOGRAM, density=True)[0]
        sizes = np.array([head.size / 1e6, *(side / 100 for side in prepared.data.shape)])
        moments = np.array([head.mean(), head.std(), *np.percentile(head, [1, 10, 50, 90, 99])])
        return np.concatenate([shares, sizes, moments]).astype(np.float32)


def open_extractor(
    spec: str, *, window: WindowMode = "slide", pool: Pool = "mean", device: str = "auto"
) -> Extractor:
    """An extractor by its name.

    Args:
        spec: a model folder, `untrained:PRESET` (a network as pre-training begins with), or `histogram`.
        window, pool, device: of encoders.

    Raises:
        ModelError, ConfigError: no such model or name.
    """
    if spec == BASELINE:
        return Histogram()
    if spec.startswith(UNTRAINED):
        return _untrained(spec.partition(":")[2] or "tiny", window, pool, device)
    path = Path(spec)
    encoder = Encoder.load(path, device=device)
    identity = _digest((path / WEIGHTS).read_bytes())
    return EncoderExtractor(encoder, _model_name(path), identity, window, pool)


def _model_name(path: Path) -> str:
    """RUN of RUN/model, else the folder's own name."""
    path = path.absolute()
    return path.parent.name if path.name == "model" else path.name


def _untrained(name: str, window: WindowMode, pool: Pool, device: str) -> Extractor:
    try:
        chosen = preset(name)
    except ConfigError as error:
        raise ConfigError(error.what, mend=f"write {UNTRAINED}:tiny, say") from error
    network = ResidualUNet(chosen.network, generator=torch_generator(0, "weights")).eval()
    encoder = Encoder(SavedModel(network, Preprocessing(), chosen.patch), resolve_device(device))
    return EncoderExtractor(encoder, f"{UNTRAINED}-{name}", f"{UNTRAINED} {name} 0", window, pool)


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
