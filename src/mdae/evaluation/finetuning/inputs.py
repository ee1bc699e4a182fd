"""What fine-tuning reads: each scan is prepared once for all folds and tasks, and then lies ready on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import PreparedScan
from mdae.errors import DataError, ScanError
from mdae.evaluation.features.extractors import fingerprint_of
from mdae.interop.backbone import Backbone


class Inputs(Protocol):
    """Volumes of N subjects and K contrasts, of which one subject's at a time is in memory.

    Attributes:
        fingerprint: the same for the same volumes made for the same network, and only then.
        shape: (N, K, D, H, W).
    """

    fingerprint: str

    @property
    def shape(self) -> tuple[int, int, int, int, int]: ...

    def __getitem__(self, row: int, /) -> np.ndarray:
        """The volumes (K, D, H, W) of a subject, float16 or float32; may be called from a thread."""


class InputExtractor:
    """A backbone's inputs in the place of features, so that `FeatureCache` prepares and keeps them.

    A volume of 160^3 voxels takes 8 MB in float16.

    Args:
        backbone: whose preprocessing.
    """

    precision = "16"

    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.name = backbone, f"inputs of {backbone.name}"
        self.pretraining, self.channels = backbone.pretraining, backbone.channels
        about = f"inputs 1 {fingerprint_of(backbone)}"
        self.fingerprint, self.identity = hashlib.sha256(about.encode()).hexdigest(), backbone.identity

    def prepare(self, entry: ScanEntry) -> PreparedScan:
        """The scan with its fitted input as data, (D, H, W), or (C, D, H, W) of a session; made in the caller's thread.

        Raises:
            ScanError: an unfit scan, or an input that is not finite in float16.
        """
        prepared = self.backbone.prepare(entry)
        with np.errstate(over="ignore"):  # the check finds it
            fitted = self.backbone.to_input(prepared).astype(np.float16)
        if not np.isfinite(fitted).all():
            raise ScanError("its prepared voxels are not finite", where=entry.path, mend="check the scan")
        return replace(prepared, data=fitted)

    def features(self, prepared: PreparedScan) -> np.ndarray:
        """The input, float16."""
        return prepared.data


class CachedInputs:
    """Inputs in files of a `FeatureCache`.

    Args:
        paths: of each row's, of one contrast each or of all, as `FeatureCache.path` gives: their names tell network,
            preprocessing and scan.

    Raises:
        DataError: a file that is gone or unlike the others, when it is read.
    """

    def __init__(self, paths: Sequence[Sequence[Path]]) -> None:
        self.paths = paths
        names = "\n".join(" ".join(path.name for path in row) for row in paths)
        self.fingerprint = hashlib.sha256(names.encode()).hexdigest()
        k, d, h, w = self[0].shape
        self.shape = (len(paths), k, d, h, w)

    def __getitem__(self, row: int, /) -> np.ndarray:
        files = [self._open(path) for path in self.paths[row]]
        return np.concatenate([own.reshape(-1, *own.shape[-3:]) for own in files])

    def _open(self, path: Path) -> np.ndarray:
        """Mapped, and closed with the last reference: thousands at a time would be too many open files."""
        try:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                "a prepared input is gone from the cache", where=path, mend="repeat the command"
            ) from error
