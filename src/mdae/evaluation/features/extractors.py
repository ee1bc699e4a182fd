"""Whatever turns a scan into features, behind one interface: our encoders, untrained ones, and a trivial baseline."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import PreparedScan, Preprocessing
from mdae.devices import uses_bf16
from mdae.errors import ConfigError
from mdae.evaluation.configs import Pool, WindowMode
from mdae.evaluation.features.backbone import backbone_of
from mdae.evaluation.features.clinical import CLINICAL
from mdae.evaluation.features.custom import CustomExtractor, is_custom, open_custom
from mdae.evaluation.features.encoder import Encoder, resolve_device
from mdae.evaluation.features.histogram import BASELINE, OF_NO_SCAN, Histogram
from mdae.evaluation.features.session import background_of
from mdae.evaluation.features.small_cnn import CNN, is_cnn, small_cnn
from mdae.evaluation.features.table import FeatureTable
from mdae.interop.backbone import Backbone
from mdae.interop.checkpoints import file_identity
from mdae.interop.exposure import Exposure, known_exposure
from mdae.interop.known import spelled_out
from mdae.interop.third_party import open_third_party
from mdae.networks import preset
from mdae.networks.hub import is_hub_name, local_folder
from mdae.networks.registry import NetworkSpec, describe
from mdae.networks.saved import CONFIG, WEIGHTS, SavedModel, load_model, read_provenance
from mdae.seeding import name_and_seed, torch_generator

UNTRAINED, POSITION, FEATURES = "untrained", "position", "features"
OF_VOXELS = (POSITION, "place", "intensities")  # both, or one of them: baselines of segmentations


class Extractor(Protocol):
    """Scans to features.

    Attributes:
        name: for tables.
        fingerprint: the same for the same features of the same scan, and only then.
        identity: what tells its weights from others', wherever and however they compute.
        precision: the arithmetic of its features, which differ a little from one to another.
        pretraining: salted hashes of the scans that it was pre-trained on (`mdae.networks.saved.manifest`); None if
            nobody knows.
        channels: the contrasts that it sees at once, in order; none if it sees one scan at a time.
    """

    name: str
    fingerprint: str
    identity: str
    precision: str
    pretraining: dict[str, Any] | None
    channels: tuple[str, ...]

    def prepare(self, entry: ScanEntry) -> PreparedScan:
        """Read and prepare a scan, or the scans of a session for an encoder of several channels.

        May run in threads. Raises `ScanError` for an unfit one.
        """

    def features(self, prepared: PreparedScan) -> np.ndarray:
        """The features (F,), float32, of a prepared scan."""


class Embeds(Protocol):
    """Raw scans to features."""

    def embed(self, scan: str | Path) -> np.ndarray:
        """The features (F,), float32, of a raw scan; raises `ScanError` for an unfit one."""


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
        self.identity = identity
        about = [identity, encoder.contract.to_dict(), list(encoder.patch), window, pool]
        self.fingerprint = _digest(json.dumps(about))
        self.pretraining, self.channels = encoder.provenance.get("scans"), encoder.channels
        self.precision = precision_on(encoder.device)

    def prepare(self, entry: ScanEntry) -> PreparedScan:
        return self.encoder.read(entry)

    def features(self, prepared: PreparedScan) -> np.ndarray:
        background = background_of(prepared)
        return self.encoder.embed_volume(prepared.data, background, window=self.window, pool=self.pool)


class BackboneExtractor:
    """A frozen network of someone else's, with that one's own preprocessing.

    Args:
        backbone: on the CPU.
        device: where to compute.
    """

    pretraining: dict[str, Any] | None = None
    channels: tuple[str, ...] = ()

    def __init__(self, backbone: Backbone, device: torch.device) -> None:
        self.backbone, self.device, self.name = backbone, device, backbone.name
        self.network = backbone.network.eval().to(device)
        self.fingerprint, self.identity = fingerprint_of(backbone), backbone.identity
        self.precision = precision_on(device)

    def prepare(self, entry: ScanEntry) -> PreparedScan:
        return self.backbone.prepare(entry)

    def embed(self, scan: str | Path) -> np.ndarray:
        """The features (F,), float32, of a raw scan; raises `ScanError` for an unfit one."""
        return self.features(self.prepare(ScanEntry("", "", "", "", Path(scan))))

    @torch.inference_mode()
    def features(self, prepared: PreparedScan) -> np.ndarray:
        volume = torch.from_numpy(self.backbone.to_input(prepared))[None, None].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=uses_bf16(self.device)):
            features = self.network.features(volume)
        return np.asarray(features[0].float().cpu().numpy())


def fingerprint_of(backbone: Backbone) -> str:
    """What tells a backbone's features from any other's."""
    return _digest(json.dumps([backbone.identity, backbone.preprocessing, list(backbone.patch)]))


def precision_on(device: torch.device) -> str:
    """The arithmetic of features on a device: encoders run in bfloat16 on a GPU."""
    return "bf16" if device.type == "cuda" else "32"


def weights_of(identity: str) -> str:
    """What tells weights from others', however scans are shown to them and whatever the encoder is called."""
    return _digest(identity)[:20]


def open_extractor(
    spec: str, *, window: WindowMode = "slide", pool: Pool = "mean", device: str = "auto"
) -> Extractor:
    """Frozen features by the encoder's name.

    Args:
        spec: a model folder or OWNER/NAME of the Hugging Face Hub, `untrained:PRESET` or `untrained:MODEL` (a network
            as pre-training begins with; of a model's own make, scans prepared as for that one), with `:SEED` behind if
            wanted, `histogram` or `histogram:MODEL` (scans prepared as for that one), third-party weights as KIND:PATH,
            a short name of `mdae.interop.known`, a class of one's own (`mdae.evaluation.features.custom`), or
            `features:TABLE`.
        window, pool: of our own encoders.
        device: of all.

    Raises:
        ModelError, ConfigError: no such model or name.
    """
    spec = spelled_out(spec)
    kind, _, place = spec.partition(":")
    _require_frozen(kind)
    if kind == BASELINE:
        return Histogram(load_model(local_folder(place)).contract if place else None)
    if kind == FEATURES:
        return FeatureTable(Path(place))
    if is_custom(spec):
        return open_custom(spec, str(resolve_device(device)))
    if is_third_party(spec):
        return BackboneExtractor(open_third_party(spec), resolve_device(device))
    encoder, name, identity = _own_encoder(spec, device)
    return EncoderExtractor(encoder, name, identity, window, pool)


def _require_frozen(kind: str) -> None:
    """Raises `ConfigError` for what has no features of a scan."""
    reasons = {
        **dict.fromkeys(
            OF_VOXELS,
            ("is a baseline of segmentations alone", f"use --protocol voxels, or --encoder {BASELINE}"),
        ),
        CNN: ("learns from labels alone", "use --protocol finetune"),
        CLINICAL: ("looks at no scan", "use --protocol linear or knn of `mdae evaluate`"),
    }
    if kind in reasons:
        what, mend = reasons[kind]
        raise ConfigError(f"{kind} {what}", mend=mend)


def load_encoder(spec: str, device: str) -> Encoder | Embeds:
    """What embeds raw scans by the encoder's name: one of ours as such, others by their own preprocessing."""
    opened = open_extractor(spec, device=device)
    if isinstance(opened, EncoderExtractor):
        return opened.encoder
    if isinstance(opened, FeatureTable):
        raise ConfigError("a table of features embeds no scan", mend="use --features of `mdae evaluate`")
    assert isinstance(opened, BackboneExtractor | Histogram | CustomExtractor)
    return opened


def open_backbone(spec: str) -> Backbone:
    """A network to fine-tune by the encoder's name, on the CPU.

    Raises:
        ModelError, ConfigError: no such model or name, or one that has no network.
    """
    spec = spelled_out(spec)
    kind = spec.partition(":")[0]
    if kind in (BASELINE, FEATURES, CLINICAL, *OF_VOXELS):
        raise ConfigError(f"{kind} has no network to fine-tune", mend="use --protocol linear")
    if is_cnn(spec):
        return small_cnn(spec)
    if is_custom(spec):
        return open_custom(spec, "cpu").backbone()
    if is_third_party(spec):
        return open_third_party(spec)
    encoder, name, identity = _own_encoder(spec, "cpu")
    return backbone_of(encoder, name, identity)


def is_own(spec: str) -> bool:
    """Whether it names an encoder of ours, trained or not."""
    spec = spelled_out(spec)
    others = (BASELINE, *OF_VOXELS, FEATURES, CLINICAL, CNN)
    return spec.partition(":")[0] not in others and not is_custom(spec) and not is_third_party(spec)


def is_third_party(spec: str) -> bool:
    """Whether it reads KIND:PATH."""
    kind, colon, _ = spec.partition(":")
    others = (BASELINE, UNTRAINED, *OF_VOXELS, FEATURES, CLINICAL, CNN)
    return bool(colon) and kind not in others and not Path(spec).exists() and not is_custom(spec)


def exposure_of(spec: str, layout: str) -> Exposure:
    """Whether an encoder was pre-trained on the people of a data set; none of its own is told, whose scans are listed.

    A model of ours that began with third-party weights has seen what those had.
    """
    spec = spelled_out(spec)
    if is_third_party(spec):
        return known_exposure(spec, layout)
    if is_custom(spec):
        return open_custom(spec, "cpu").exposure(layout)
    if spec.partition(":")[0] == FEATURES:
        return Exposure(
            "unknown", "features of a table, which does not say what their encoder was pre-trained on"
        )
    if not is_own(spec) or spec.partition(":")[0] == UNTRAINED:
        return Exposure()
    init = read_provenance(spec).get("init") or {}
    while init and init.get("kind") == "mdae":
        init = init.get("init") or {}
    return known_exposure(f"{init['kind']}:{init['from']}", layout) if init else Exposure()


def _own_encoder(spec: str, device: str) -> tuple[Encoder, str, str]:
    """An encoder of ours with its name for tables and what tells its weights from others'."""
    model, name, identity = own_model(spec)
    return Encoder(model, resolve_device(device)), name, identity


def own_model(spec: str) -> tuple[SavedModel, str, str]:
    """A model of ours, trained or not, with its name for tables and what tells its weights from others'.

    Raises:
        ModelError, ConfigError: no such model or preset.
    """
    if spec.partition(":")[0] == UNTRAINED:
        return _untrained(spec.partition(":")[2] or "tiny")
    path = local_folder(spec)
    return load_model(path), model_name(spec), file_identity(path / WEIGHTS)


def model_name(spec: str | Path) -> str:
    """RUN of RUN/model, NAME of OWNER/NAME, else the folder's own name."""
    if is_hub_name(spec):
        return str(spec).partition("/")[2]
    path = Path(spec).absolute()
    return path.parent.name if path.name == "model" else path.name


def _untrained(words: str) -> tuple[SavedModel, str, str]:
    """A network as pre-training begins with, of PRESET or of a model's own make, with :SEED behind or not."""
    name, seed = name_and_seed(words)
    generator, shown = torch_generator(seed, "weights"), name
    if (Path(name) / CONFIG).is_file() or is_hub_name(name):
        like, shown = load_model(local_folder(name)), model_name(name)
        network = type(like.network)(like.network.config, generator=generator)
        model = replace(like, network=network.eval(), objective={})
        make = _digest(json.dumps(describe(network)))[:12]
    else:
        chosen, make = _preset(name), name
        model = SavedModel(chosen.new(generator).eval(), Preprocessing(), chosen.patch)
    model.provenance = {"scans": OF_NO_SCAN}
    return model, f"{UNTRAINED}-{shown}" + (f"-{seed}" if seed else ""), f"{UNTRAINED} {make} {seed}"


def _preset(name: str) -> NetworkSpec:
    try:
        return preset(name)
    except ConfigError as error:
        mend = f"write {UNTRAINED}:tiny, {UNTRAINED}:tiny:1 or {UNTRAINED}:MODEL, say"
        raise ConfigError(error.what, mend=mend) from error


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()
