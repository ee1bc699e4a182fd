"""The trivial baseline of whole scans: how often each intensity occurs in the head, and how large the head is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import PreparedScan, Preprocessing
from mdae.data.workers import prepare_entry
from mdae.foreground import is_foreground

HISTOGRAM = np.linspace(-4, 4, 41)
BASELINE = "histogram"
OF_NO_SCAN: dict[str, Any] = {"salt": "", "hashes": []}  # the manifest of what was not pre-trained


class Histogram:
    """What any encoder has to beat: how often each intensity occurs in the head, and how large the head is.

    Args:
        contract: how scans are prepared; by default if left out.
    """

    name = BASELINE
    pretraining: dict[str, Any] | None = OF_NO_SCAN
    precision = "32"
    channels: tuple[str, ...] = ()

    def __init__(self, contract: Preprocessing | None = None) -> None:
        self.contract = contract or Preprocessing()
        about = json.dumps([BASELINE, 1, self.contract.to_dict()])
        self.fingerprint = self.identity = hashlib.sha256(about.encode()).hexdigest()

    def prepare(self, entry: ScanEntry) -> PreparedScan:
        return prepare_entry(entry, self.contract)

    def embed(self, scan: str | Path) -> np.ndarray:
        """The features (F,), float32, of a raw scan; raises `ScanError` for an unfit one."""
        return self.features(self.prepare(ScanEntry("", "", "", "", Path(scan))))

    def features(self, prepared: PreparedScan) -> np.ndarray:
        head = prepared.data[is_foreground(prepared.data, prepared.record.background)]
        shares = np.histogram(head, bins=HISTOGRAM, density=True)[0]
        sizes = np.array([head.size / 1e6, *(side / 100 for side in prepared.data.shape)])
        moments = np.array([head.mean(), head.std(), *np.percentile(head, [1, 10, 50, 90, 99])])
        return np.concatenate([shares, sizes, moments]).astype(np.float32)
