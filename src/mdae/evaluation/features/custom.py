"""Encoders of a user's own: a class in a Python file, or of an installed package, in any framework.

A file holds one class, or several of which one is called `Encoder`; a package names its class in the entry-point group
`mdae.encoders`. The class is all that there is to write:

    class Encoder:
        name = "brightness"  # for tables
        pretrained_on = {"openneuro": "800 scans"}  # cohorts by name; left out, it is unknown

        def __init__(self, device):  # (device, path) of an entry point that is called as NAME:PATH
            ...

        def embed(self, volume, spacing_mm):  # (D, H, W) float32 in RAS, as in the file, and millimetres
            return np.array([volume.mean(), volume.std()])  # (F,)

With `contract = Preprocessing(...)` volumes come prepared by it, as our models' do. `weights = "file.pth"` makes their
hash part of what tells features apart; else the Python file alone is. A method `backbone()` that returns a
`mdae.interop.backbone.Backbone` lets it be fine-tuned.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes

from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import PreparedScan, Preprocessing
from mdae.errors import ConfigError, MDAEError
from mdae.interop.backbone import Backbone
from mdae.interop.checkpoints import file_identity
from mdae.interop.exposure import Exposure, PretrainingData
from mdae.interop.raw import prepare_by, read_raw, recorded
from mdae.plugin import place_of, run_file

GROUP = "mdae.encoders"
MEND = "see docs/evaluation.md for the class"


class CustomExtractor:
    """Frozen features by a user's own class.

    Args:
        made: an instance of it.
        name: for tables, if it has none.
        identity: what tells the code from any other.
        where: for errors.
    """

    precision = "its own"
    pretraining: dict[str, Any] | None = None
    channels: tuple[str, ...] = ()

    def __init__(self, made: Any, name: str, identity: str, where: Path) -> None:
        self.made, self.where = made, where
        self.name = str(getattr(made, "name", name))
        self.contract: Preprocessing | None = getattr(made, "contract", None)
        weights = getattr(made, "weights", None)
        self.identity = (
            identity if weights is None else f"{identity} {file_identity(_beside(weights, where))}"
        )
        about = [self.identity, None if self.contract is None else self.contract.to_dict()]
        self.fingerprint = hashlib.sha256(json.dumps(about).encode()).hexdigest()
        self.num_features = 0

    def prepare(self, entry: ScanEntry) -> PreparedScan:
        """By its contract, or as the file has it, turned to RAS."""
        if self.contract is not None:
            return prepare_by(entry, self.contract)
        raw = read_raw(entry)
        mean, std = float(raw.data.mean(dtype=np.float64)), float(raw.data.std(dtype=np.float64))
        return recorded(raw, raw.data, (1.0, 1.0, 1.0), mean=mean, std=std, background=0.0)

    def embed(self, scan: str | Path) -> np.ndarray:
        """The features (F,), float32, of a raw scan; raises `ScanError` for an unfit one."""
        return self.features(self.prepare(ScanEntry("", "", "", "", Path(scan))))

    def features(self, prepared: PreparedScan) -> np.ndarray:
        """What it returns, (F,) float32; raises `ConfigError` for its errors and for what is no vector."""
        spacing = tuple(float(side) for side in voxel_sizes(prepared.affine))
        found = np.asarray(_called(lambda: self.made.embed(prepared.data, spacing), self.where))
        if found.ndim != 1 or not np.issubdtype(found.dtype, np.number):
            what = f"embed returned {found.dtype} of shape {found.shape} where (F,) numbers are wanted"
            raise ConfigError(what, where=self.where, mend=MEND)
        self.num_features = self.num_features or len(found)
        if len(found) != self.num_features:
            what = f"embed returned {len(found)} features, and {self.num_features} of another scan"
            raise ConfigError(what, where=self.where, mend=MEND)
        return found.astype(np.float32)

    def backbone(self) -> Backbone:
        """Its network to fine-tune; raises `ConfigError` where it has none."""
        if not callable(getattr(self.made, "backbone", None)):
            raise ConfigError(
                "it has no network to fine-tune", where=self.where, mend="use --protocol linear"
            )
        found = _called(self.made.backbone, self.where)
        if not isinstance(found, Backbone):
            raise ConfigError("backbone() returned no Backbone", where=self.where, mend=MEND)
        return found

    def exposure(self, layout: str) -> Exposure:
        """Whether it was pre-trained on the people of a data set, as it says itself."""
        cohorts = getattr(self.made, "pretrained_on", None)
        if cohorts is None:
            return Exposure("unknown", f"{self.name} does not say what it was pre-trained on")
        known = PretrainingData(name=self.name, cohorts=cohorts, listed=True, source="as it says itself")
        return known.exposure(layout)


def is_custom(spec: str) -> bool:
    """Whether it names a Python file, or an installed package's encoder as NAME or NAME:PATH."""
    return spec.endswith(".py") or _entry(spec) is not None


def open_custom(spec: str, device: str) -> CustomExtractor:
    """A user's own encoder.

    Args:
        spec: a Python file, or NAME or NAME:PATH of an entry point.
        device: that it is given, "cpu" or "cuda" say.

    Raises:
        ConfigError: no such file, no class in it, or an error of its own.
    """
    entry = _entry(spec)
    if entry is None:
        path = Path(spec)
        kind = _class_in(path)
        made = _called(lambda: kind(device), path.resolve())
        identity = hashlib.sha256(path.read_bytes()).hexdigest()
        return _checked(CustomExtractor(made, path.stem, identity, path.resolve()))
    name, _, place = spec.partition(":")
    where, arguments = Path(entry.value), (device, place) if place else (device,)
    made = _called(lambda: entry.load()(*arguments), where)
    version = entry.dist.version if entry.dist is not None else ""
    weights = file_identity(Path(place)) if place and Path(place).is_file() else place
    return _checked(CustomExtractor(made, name, f"{entry.value} {version} {weights}", where))


def installed() -> dict[str, str]:
    """The encoders of installed packages, by name: whose they are."""
    found = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    return {
        entry.name: f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value
        for entry in found
    }


def _entry(spec: str) -> EntryPoint | None:
    name = spec.partition(":")[0]
    return next((entry for entry in entry_points(group=GROUP) if entry.name == name), None)


def _class_in(path: Path) -> Callable[[str], Any]:
    """The class called `Encoder`, or the only one of a file with a method `embed`."""
    module = run_file(path, "holds a class with a method `embed`")
    own = [
        kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__
    ]
    found = [kind for kind in own if callable(getattr(kind, "embed", None))]
    chosen = [kind for kind in found if kind.__name__ == "Encoder"] or found
    if len(chosen) != 1:
        raise ConfigError(f"{len(found)} classes with a method `embed`", where=path, mend=MEND)
    return chosen[0]


def _checked(extractor: CustomExtractor) -> CustomExtractor:
    if not callable(getattr(extractor.made, "embed", None)):
        raise ConfigError("it has no method `embed`", where=extractor.where, mend=MEND)
    return extractor


def _called(function: Callable[[], Any], where: Path) -> Any:
    """What a user's code returns; its errors are one line with the place."""
    try:
        return function()
    except MDAEError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise ConfigError(what, where=place_of(error, where), mend="mend it") from error


def _beside(weights: str | Path, where: Path) -> Path:
    path = Path(weights)
    return path if path.is_absolute() else where.parent / path
