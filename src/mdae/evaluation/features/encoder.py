"""A pre-trained encoder, folded to a plain one, that embeds raw scans by itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdae.data.catalogue import ScanEntry
from mdae.data.outside import outside
from mdae.data.preprocess import UNKNOWN, PreparedRecord, PreparedScan, Preprocessing
from mdae.devices import uses_bf16
from mdae.errors import ConfigError
from mdae.evaluation.configs import Pool, WindowMode
from mdae.evaluation.features.maps import native_maps
from mdae.evaluation.features.session import PreparedSession, background_of, prepare_session, require_single
from mdae.evaluation.features.sliding_window import AT_ONCE, Fill, as_channels, cut_window, window_starts
from mdae.foreground import is_foreground
from mdae.interop.raw import prepare_by
from mdae.networks import Network
from mdae.networks.norm import lay_channels_last
from mdae.networks.saved import SavedModel, load_model
from mdae.notices import notice
from mdae.types import Shape3, shape3

MIN_FOREGROUND = 0.05  # of a window; emptier ones say nothing

logger = logging.getLogger(__name__)


class Encoder:
    """The frozen encoder of a saved model.

    Args:
        model: the saved model; its encoder is folded at t = 0.
        device: where to compute.

    Attributes:
        folded: the whole network without time, on the CPU but for its encoder.
        network: the plain encoder.
        contract: how scans are prepared for it.
        patch: the window in voxels.
        num_features: the length of an embedding by means.
        channels: the contrasts that make a volume, in order; none if it takes any single one.
    """

    def __init__(self, model: SavedModel, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.folded: Network = model.network.at(0.0)
        self.network = self.folded.encoder.to(self.device)
        if self.device.type == "cuda":
            lay_channels_last(self.network)
        self.contract: Preprocessing = model.contract
        self.patch: Shape3 = model.patch
        self.provenance = model.provenance
        self.num_features = sum(self.folded.widths)
        self.channels = model.channels
        if self.folded.in_channels > 1 and not self.channels:
            raise ConfigError(
                f"a model of {self.folded.in_channels} contrasts that does not name them",
                mend="use one that mdae pretrain --channels made",
            )

    @property
    def in_channels(self) -> int:
        """Contrasts that it sees at once."""
        return self.folded.in_channels

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage, finest first."""
        return self.folded.widths

    @classmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "cpu") -> Encoder:
        """The encoder of a model folder; raises `ModelError` for anything else, `ConfigError` for no such device."""
        return cls(load_model(path), resolve_device(str(device)))

    def prepare(self, scan: str | Path | ScanEntry) -> PreparedScan:
        """Read and prepare a raw scan by the model's contract; raises `ScanError` for an unfit one.

        Defaced voxels of an entry with an anonymisation mask are what they were in training. What lies outside of what
        the model was trained on is added to the record's notes.
        """
        entry = scan if isinstance(scan, ScanEntry) else ScanEntry("", "", "", "", Path(scan))
        prepared = prepare_by(entry, self.contract, unknown=UNKNOWN)
        notes = self.warnings(prepared.data, prepared.record, entry.path)
        return replace(prepared, record=replace(prepared.record, notes=notes))

    def warnings(self, data: np.ndarray, record: PreparedRecord, where: Path | str) -> tuple[str, ...]:
        """What is to be told of a prepared scan, told once: its record's notes, and what is outside of the training."""
        modalities = [word for word in self.provenance.get("modalities", ()) if word]
        notes = outside(data, record, self.contract, self.patch, modalities)
        for note in notes:
            if note not in record.notes:  # which whoever reads tells of
                notice(note, where)
        return notes

    def prepare_session(self, scans: Mapping[str, str | Path | ScanEntry]) -> PreparedSession:
        """Read and prepare the contrasts of one session, on one grid, as the model's channels.

        Args:
            scans: by the contrast's name, which must be one of `channels`; those that it lacks are hidden.

        Raises:
            ScanError: an unfit scan.
            ConfigError: a model of single scans, none of its channels, or others than its channels.
        """
        return prepare_session(scans, self.channels, self.prepare)

    def read(self, entry: ScanEntry) -> PreparedScan:
        """Prepare a scan, or the scans of a session (`session_entry`), whichever the model takes.

        Raises:
            ScanError: an unfit scan.
            ConfigError: a single scan for a model of several contrasts.
        """
        if self.channels and entry.together:
            return self.prepare_session({scan.contrast: scan for scan in entry.together})
        require_single(self.channels)
        return self.prepare(entry)

    def embed(
        self,
        scan: str | Path | Mapping[str, str | Path],
        *,
        window: WindowMode = "slide",
        pool: Pool = "mean",
    ) -> np.ndarray:
        """The features (F,), float32, of a raw scan, or of the contrasts of a session for a model of several.

        Args:
            scan: a NIfTI file, in any orientation and spacing, or several by the names of their contrasts.
            window, pool: see `embed_volume`.

        Raises:
            ScanError: a file that cannot be read or is unfit.
            ConfigError: a single scan for a model of several contrasts, or the other way round.
        """
        prepared = self._prepared(scan)
        return self.embed_volume(prepared.data, background_of(prepared), window=window, pool=pool)

    def _prepared(self, scan: str | Path | Mapping[str, str | Path]) -> PreparedScan:
        """A single scan, or the contrasts of a session, whichever the model takes."""
        if isinstance(scan, Mapping):
            return self.prepare_session(scan)
        require_single(self.channels)
        return self.prepare(scan)

    def embed_volume(
        self, volume: np.ndarray, background: Fill, *, window: WindowMode = "slide", pool: Pool = "mean"
    ) -> np.ndarray:
        """The features (F,), float32, of a prepared volume (D, H, W), or (C, D, H, W) of several contrasts.

        Every stage's output is pooled over its voxels, the stages side by side, finest first.

        Args:
            volume: prepared values, of any size.
            background: their value outside the head, used as padding; or that of each contrast.
            window: "slide" averages windows of the training patch, which cover the volume evenly, by how much head
                each holds; "centre" takes the middle one alone; "whole" takes the volume in one piece.
            pool: "mean" tells what is everywhere in a window, "max" what is somewhere in it; "both" has twice the
                features, means first.
        """
        x = as_channels(volume)
        if window == "whole":
            sides = [side + (-side) % self.folded.stride for side in x.shape[1:]]
            whole = cut_window(x, (0, 0, 0), shape3(sides), background)
            return self._pooled(whole[None], pool)[0].numpy()
        starts = window_starts(x.shape[1:], self.patch, centre_only=window == "centre")
        windows = torch.stack([cut_window(x, start, self.patch, background) for start in starts])
        outside = x.new_tensor(background).view(-1, 1, 1, 1)
        weights = is_foreground(windows, outside).float().mean(dim=(1, 2, 3, 4))
        kept = weights >= min(MIN_FOREGROUND, float(weights.max()))
        weights = weights[kept].double().clamp_min(1e-9)
        pooled = self._pooled(windows[kept], pool).double()
        return ((weights[:, None] * pooled).sum(0) / weights.sum()).float().numpy()

    def maps(self, scan: str | Path | Mapping[str, str | Path], stage: int) -> np.ndarray:
        """A stage's feature maps (K, D, H, W), float32, on the voxels of a raw scan's own file.

        Args:
            scan: as for `embed`; of several contrasts, the maps lie on the first one's voxels.
            stage: from 1, the finest.

        Raises:
            ScanError: a file that cannot be read or is unfit.
            ConfigError: no such stage, or not the contrasts of the model.
        """
        self.require_stage(stage)
        own = self._prepared(scan)
        return np.stack(list(native_maps(self, own.data, background_of(own), own.record, stage)))

    def require_stage(self, stage: int) -> None:
        """Raise `ConfigError` for a stage that the network has not."""
        if not 1 <= stage <= len(self.widths):
            raise ConfigError(
                f"no stage {stage}: the network has {len(self.widths)}", mend="give 1, the finest, and on"
            )

    @torch.inference_mode()
    def stages(self, windows: Tensor) -> list[Tensor]:
        """The output of every stage, finest first, of windows (B, C, D, H, W); on the device, bf16 if that is a GPU."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=uses_bf16(self.device)):
            return list(self.network(windows.to(self.device)))

    def _pooled(self, batch: Tensor, pool: Pool) -> Tensor:
        """Pooled outputs of every stage, float32 on the CPU; a few volumes at a time."""
        return torch.cat([_pool(self.stages(part), pool).cpu() for part in torch.split(batch, AT_ONCE)])


def _pool(stages: list[Tensor], pool: Pool) -> Tensor:
    """Means, maxima or both over the voxels of every stage, (B, F or 2 F), float32."""
    parts = []
    if pool in ("mean", "both"):
        parts += [stage.float().mean(dim=(2, 3, 4)) for stage in stages]
    if pool in ("max", "both"):
        parts += [stage.float().amax(dim=(2, 3, 4)) for stage in stages]
    return torch.cat(parts, dim=1)


def resolve_device(name: str) -> torch.device:
    """A device by name; "auto" is the GPU if there is one.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"no device {name!r} on this machine", mend="use --device auto") from error
    return device
