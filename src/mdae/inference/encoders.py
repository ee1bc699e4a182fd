"""The encoder of a fitted model: where it is, and whether it is the one that was fitted on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from mdae.errors import ModelError
from mdae.evaluation.features.extractors import Extractor, is_own, open_extractor
from mdae.files import atomic_write
from mdae.interop.checkpoints import file_identity
from mdae.interop.known import spelled_out
from mdae.interop.third_party import THIRD_PARTY
from mdae.networks.hub import is_hub_name, local_folder, pinned
from mdae.networks.saved import CONFIG, WEIGHTS, SavedModel, load_model

BUNDLED = "encoder"  # the folder of its copy within a fitted model's
Row = dict[str, Any]


def encoder_record(spec: str, name: str, identity: str, out: Path, *, bundled: bool, **settings: Any) -> Row:
    """What is kept of an encoder.

    Args:
        spec: where it is.
        name: for people.
        identity: what tells its weights from others'.
        out: the fitted model's folder; a path is kept as seen from there.
        bundled: whether a copy lies in it.
        settings: how it sees scans, JSON-able: `channels` if several at once.
    """
    place = os.path.relpath(spec, out) if Path(spec).exists() else spelled_out(spec)
    if is_hub_name(place):
        place = pinned(place, local_folder(place))
    return {"place": BUNDLED if bundled else place, "name": name, "identity": identity, **settings}


def bundle_encoder(spec: str, out: Path) -> None:
    """Copy a model folder of ours into the fitted model's; raises `ModelError` for others' weights."""
    source = local_folder(spec)
    if not (is_own(spec) and (source / WEIGHTS).is_file()):
        raise ModelError(
            "only model folders of mdae are bundled: others' weights are for their authors to pass on",
            where=spec,
            mend="leave --bundle out",
        )
    for name in (WEIGHTS, CONFIG):
        with atomic_write(out / BUNDLED / name) as temporary:
            shutil.copyfile(source / name, temporary)


def open_encoder(about: Row, folder: Path | None, given: str, device: str) -> Extractor:
    """The encoder of a fitted model's record, or the one given; it must be that which was fitted on.

    Raises:
        ModelError: it is not to be had, or another one.
    """
    if "columns" in about:
        raise ModelError(
            "fitted on a table of features, not on scans", mend="give it a table of the same columns"
        )
    spec = given or place_of(about, folder)
    extractor = open_extractor(spec, window=about["window"], pool=about["pool"], device=device)
    _require_same(extractor.identity, about, spec)
    return extractor


def open_network(about: Row, folder: Path | None, given: str) -> SavedModel:
    """The pre-trained model of a segmenter's record, or the one given, on the CPU; raises as `open_encoder`."""
    spec = given or place_of(about, folder)
    place = local_folder(spec)
    model = load_model(place)
    _require_same(file_identity(place / WEIGHTS), about, spec)
    return model


def _require_same(identity: str, about: Row, spec: str) -> None:
    if identity != about["identity"]:
        raise ModelError(
            f"not the encoder that was fitted on, which is {about['name']}",
            where=spec,
            mend="give --encoder that one",
        )


def place_of(about: Row, folder: Path | None) -> str:
    """Where the record says that the encoder is; only what is read as weights, never a file of code."""
    place = str(about["place"])
    local = (folder or Path()) / place
    if (local / CONFIG).is_file():
        return str(local)
    kind = place.partition(":")[0]
    if kind in THIRD_PARTY or kind in ("untrained", "histogram") or is_hub_name(place):
        return place
    raise ModelError(
        f"its encoder {about['name']} is not at {place}", where=folder, mend="say where it is with --encoder"
    )
