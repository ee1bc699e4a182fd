"""Features that were computed once: by code, weights, preprocessing and scan; ten tasks embed each scan once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mdae.data.ahead import ahead
from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import PreparedScan
from mdae.errors import ConfigError, DataError, ScanError
from mdae.evaluation.features.extractors import Extractor
from mdae.files import atomic_write
from mdae.progress import Progress
from mdae.version import __version__

CODE = 2  # to be raised where the same weights give other features of the same scan by the code alone


def default_folder() -> Path:
    """Where features are kept if nobody says where."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mdae" / "features"


class FeatureCache:
    """A folder of feature vectors; a file that cannot be read is as good as none.

    Args:
        folder: where.
        extractor: whose features.
    """

    def __init__(self, folder: Path, extractor: Extractor) -> None:
        self.folder, self.extractor = folder, extractor

    def path(self, entry: ScanEntry) -> Path:
        """Where a scan's features are; another place if the file has changed. Raises `OSError` if it is gone."""
        masks = (entry.anatomy_mask, entry.anonymisation_mask)
        code = (CODE, __version__, self.extractor.precision)
        others = [(scan.contrast, scan.path.absolute(), scan.stamp()) for scan in entry.together]
        about = (code, self.extractor.fingerprint, entry.path.absolute(), entry.stamp(), masks, *others)
        name = hashlib.sha256(repr(about).encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.npy"

    def read(self, entry: ScanEntry) -> np.ndarray | None:
        """A scan's features, if they are known; mapped, so that asking for large ones does not read them."""
        try:
            return np.asarray(np.load(self.path(entry), mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError, EOFError):
            return None

    def content(self, entry: ScanEntry) -> str:
        """The hash of a scan's voxels, "" if it is not known; copies share it under any name."""
        try:
            return self.path(entry).with_suffix(".content").read_text()
        except OSError:
            return ""

    def fill(self, entries: Sequence[ScanEntry], *, workers: int = 0) -> dict[str, ScanError]:
        """Compute what is not known, scans being prepared in threads while the network runs.

        Returns:
            Why some scans have no features, by path.

        Raises:
            ConfigError: a scan that the device's memory does not hold.
        """
        missing = [entry for entry in entries if self.read(entry) is None or not self.content(entry)]
        failed: dict[str, ScanError] = {}
        with Progress(f"embedding with {self.extractor.name}", len(missing)) as progress:
            for entry, prepared in ahead(missing, self.extractor.prepare, workers):
                try:
                    self._write(entry, prepared.result())
                except ScanError as error:
                    failed[str(entry.path)] = error
                except OSError as error:
                    raise DataError(f"cannot be read ({error})", where=entry.path, mend="check it") from error
                progress.advance(f"{len(failed)} set aside")
        return failed

    def _write(self, entry: ScanEntry, prepared: PreparedScan) -> None:
        """Features last: where they are, the content is."""
        path = self.path(entry)
        try:
            features = self.extractor.features(prepared)
        except torch.OutOfMemoryError as error:
            mend = "use a device with more memory, or --device cpu"
            raise ConfigError(
                "the device does not hold a scan", where=self.extractor.name, mend=mend
            ) from error
        with atomic_write(path.with_suffix(".content")) as temporary:
            temporary.write_text(prepared.record.content)
        with atomic_write(path) as temporary:
            np.save(temporary, features, allow_pickle=False)
