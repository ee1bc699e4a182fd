"""`mdae embed`: many scans to a table of features, one row a scan; the unfit ones are set aside."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mdae.data.ahead import ahead
from mdae.data.catalogue import ScanEntry
from mdae.data.sources import discover
from mdae.data.store import Store, StoredScan
from mdae.data.tables import write_table
from mdae.errors import DataError, ScanError
from mdae.evaluation.configs import EmbedConfig
from mdae.evaluation.features.encoder import Encoder, resolve_device
from mdae.networks.saved import overlap
from mdae.progress import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """A scan to embed: whose it is, and how to get its volume, background and content hash."""

    scan: str
    subject: str
    session: str
    contrast: str
    path: str
    load: Callable[[], tuple[np.ndarray, float, str]]


@dataclass(frozen=True)
class Embedded:
    """The features table and the scans set aside with reasons."""

    table: pd.DataFrame
    set_aside: pd.DataFrame


def embed(config: EmbedConfig) -> Embedded:
    """Embed scans, write the table, and `OUT.set_aside.csv` beside it if any scan could not be taken.

    Raises:
        ModelError, DataError: no such model or scans, or a store of another contract.
    """
    if not config.scans:
        raise DataError("no scans given", mend="name scans, folders or stores after the model")
    encoder = Encoder.load(config.model, device=resolve_device(config.device))
    items = [item for source in config.scans for item in list_items(source, encoder)]
    result = embed_items(encoder, items, config)
    write_table(config.out, result.table)
    aside = config.out.with_name(config.out.name + ".set_aside.csv")
    if len(result.set_aside):
        write_table(aside, result.set_aside)
    else:
        aside.unlink(missing_ok=True)
    return result


def list_items(source: Path, encoder: Encoder) -> list[Item]:
    """The scans of a file, a folder or a prepared store."""
    if (source / "store.json").exists():
        store = Store.open(source)
        if store.contract != encoder.contract:
            raise DataError(
                f"prepared as {store.contract}; the model wants {encoder.contract}",
                where=source,
                mend="give the raw scans instead",
            )

        def read(scan: StoredScan) -> tuple[np.ndarray, float, str]:
            return store.read(scan).astype(np.float32), scan.background, scan.content

        return [
            Item(s.scan_id, s.subject, s.session, s.contrast, s.source, lambda s=s: read(s))  # type: ignore[misc]
            for s in store.scans
        ]

    def prepare(entry: ScanEntry) -> tuple[np.ndarray, float, str]:
        prepared = encoder.prepare(entry)
        return prepared.data, prepared.record.background, prepared.record.content

    return [
        Item(e.scan_id, e.subject, e.session, e.contrast, str(e.path), lambda e=e: prepare(e))  # type: ignore[misc]
        for e in discover(source, min_slices=encoder.contract.min_slices)
    ]


def embed_items(encoder: Encoder, items: list[Item], config: EmbedConfig) -> Embedded:
    """Features of each item; scans are prepared in threads while the network runs."""
    rows, features, aside, contents = [], [], [], []
    with Progress("embedding", len(items)) as progress:
        for item, loaded in ahead(items, lambda item: item.load(), config.workers):
            try:
                volume, background, content = loaded.result()
            except (ScanError, DataError) as error:
                aside.append({"path": item.path, "reason": error.what, "mend": error.mend or ""})
            else:
                features.append(
                    encoder.embed_volume(volume, background, window=config.window, pool=config.pool)
                )
                rows.append(
                    (
                        item.scan,
                        item.subject,
                        item.session,
                        item.contrast,
                        item.path,
                        config.window,
                        config.pool,
                    )
                )
                contents.append(content)
            progress.advance(f"{len(aside)} set aside")
    if not rows:
        raise DataError(
            f"none of {len(items)} scans could be embedded, e.g. {aside[0]['reason']}",
            where=aside[0]["path"],
            mend="look at the file",
        )
    _warn_of_overlap(encoder, contents)
    names = pd.DataFrame(rows, columns=["scan", "subject", "session", "contrast", "path", "window", "pool"])
    stacked = np.stack(features)
    values = pd.DataFrame(stacked, columns=[f"f{i:04d}" for i in range(stacked.shape[1])])
    return Embedded(
        pd.concat([names, values], axis=1), pd.DataFrame(aside, columns=["path", "reason", "mend"])
    )


def _warn_of_overlap(encoder: Encoder, contents: list[str]) -> None:
    """Say so if the encoder was pre-trained on some of these very scans."""
    known = encoder.provenance.get("scans")
    if known and (seen := overlap(known, contents)):
        logger.warning(
            "%d of %d scans were in this model's pre-training: evaluation on them is not on unseen data",
            len(seen),
            len(contents),
        )
