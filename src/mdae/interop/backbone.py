"""An encoder with how a raw scan is made ready for it: all that is needed to use or fine-tune it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import PreparedScan
from mdae.networks import StageEncoder
from mdae.types import Shape3, Spacing


@dataclass
class Backbone:
    """An encoder, whoever trained it, and how a raw scan is made ready for it.

    Attributes:
        name: for tables.
        identity: what tells its weights from others', such as their hash.
        network: of volumes (B, C, D, H, W) of `patch`.
        preprocessing: what `prepare` and `to_input` do, JSON-able; with `identity` it makes the key of cached features.
        prepare: reads a raw scan; may run in threads; raises `ScanError` for an unfit one.
        to_input: a prepared scan to the network's input (D, H, W) of `patch`, float32; (C, D, H, W) of a session.
        patch: the sides (D, H, W) of the input.
        source: where the weights come from, their licence and paper, for tables.
        pretraining: salted hashes of the scans that it was pre-trained on; None if nobody knows.
        spacing_mm: of the input's voxels, for rotations of it; only the sides' ratio matters.
        scratch: whether its weights are random, so that all of its layers have to learn alike.
        channels: the contrasts that it sees at once, in order; none if it sees one scan at a time.
    """

    name: str
    identity: str
    network: StageEncoder
    preprocessing: dict[str, object]
    prepare: Callable[[ScanEntry], PreparedScan]
    to_input: Callable[[PreparedScan], np.ndarray]
    patch: Shape3
    source: str = ""
    pretraining: dict[str, Any] | None = None
    spacing_mm: Spacing = (1.0, 1.0, 1.0)
    scratch: bool = False
    channels: tuple[str, ...] = ()
