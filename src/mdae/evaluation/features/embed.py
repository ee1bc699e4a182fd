"""`mdae embed`: many scans to a table of features, one row a scan; the unfit ones are set aside."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mdae.data.ahead import ahead
from mdae.data.set_aside import by_reason
from mdae.data.stack import JOINT
from mdae.data.tables import require_writer, write_table
from mdae.devices import settle_threads
from mdae.errors import ConfigError, DataError, ScanError
from mdae.evaluation.configs import EmbedConfig
from mdae.evaluation.features.describe import Describer
from mdae.evaluation.features.encoder import Encoder, resolve_device
from mdae.evaluation.features.extractors import EncoderExtractor, Extractor, open_extractor
from mdae.evaluation.features.items import Item, Loaded, gather
from mdae.networks.saved import overlap
from mdae.progress import Progress
from mdae.text import counted

# before the features
COLUMNS = ["scan", "subject", "session", "contrast", "path", "window", "pool", "region", "warnings"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embedded:
    """The features table and the scans set aside with reasons."""

    table: pd.DataFrame
    set_aside: pd.DataFrame


def embed(config: EmbedConfig, say: Callable[[str], None] = lambda line: None) -> Embedded:
    """Embed scans, write the table, and `OUT.set_aside.csv` beside it if anything was looked at and not taken.

    Args:
        config: what to do.
        say: is given the lines that tell how subjects were read, before anything is embedded.

    Raises:
        ModelError, DataError: no such model or scans, or a store of another contract.
    """
    if not config.scans:
        raise DataError("no scans given", mend="name scans, folders or stores after the model")
    require_writer(config.out)
    encoder = _opened(config)
    if resolve_device(config.device).type == "cpu":
        settle_threads()
    gathered = gather(config.scans, encoder, keep_labels=config.keep_labels, subject_from=config.subject_from)
    for line in gathered.readings:
        say(line)
    result = embed_items(encoder, gathered.items, config)
    for line in by_reason(row for row in gathered.left_out if row.unseen):
        say(line)
    listed = [(row.path, row.reason, row.mend) for row in gathered.left_out if not row.unseen]
    result = replace(result, set_aside=pd.concat([_aside(listed), result.set_aside], ignore_index=True))
    write_table(config.out, result.table)
    aside = config.out.with_name(config.out.name + ".set_aside.csv")
    if len(result.set_aside):
        write_table(aside, result.set_aside)
    else:
        aside.unlink(missing_ok=True)
    return result


def _opened(config: EmbedConfig) -> Encoder | Extractor:
    """The encoder, of ours or of others; raises `ConfigError` for options that others would not heed."""
    opened = open_extractor(str(config.model), window=config.window, pool=config.pool, device=config.device)
    if isinstance(opened, EncoderExtractor):
        for stage in config.maps:
            opened.encoder.require_stage(stage)
        return opened.encoder
    if (
        (config.window, config.pool) != (EmbedConfig.window, EmbedConfig.pool)
        or config.regions
        or config.maps
    ):
        raise ConfigError(
            "--window, --pool, --regions and --maps are for encoders of ours, and others would not heed them",
            mend="leave them out",
        )
    return opened


def _aside(rows: list[tuple[str, str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["path", "reason", "mend"], dtype=object)


def embed_items(encoder: Encoder | Extractor, items: list[Item], config: EmbedConfig) -> Embedded:
    """Features of each item; scans are prepared in threads while the network runs."""
    rows, aside, contents = [], [], []
    features: list[np.ndarray] = []
    describe = Describer.of(encoder, config)
    with Progress("embedding", len(items)) as progress:
        for item, loaded in ahead(items, lambda item: item.load(), config.workers):
            try:
                found = loaded.result()
                said = describe(item, found)
            except (ScanError, DataError) as error:
                aside.append((item.path, error.what, error.mend or ""))
            else:
                features += said.values()
                rows += [_row(item, region, encoder, found, config) for region in said]
                contents.append(found.content)
            progress.advance(f"{len(aside)} set aside")
    if not rows:
        raise DataError(
            f"none of {counted(len(items), 'scan')} could be embedded, e.g. {aside[0][1]}",
            where=aside[0][0],
            mend="look at the file",
        )
    _warn_of_overlap(encoder, contents)
    names = pd.DataFrame(rows, columns=COLUMNS)
    if config.regions is None:
        names = names.drop(columns="region")
    stacked = np.stack(features)
    values = pd.DataFrame(stacked, columns=[f"f{i:04d}" for i in range(stacked.shape[1])])
    return Embedded(pd.concat([names, values], axis=1), _aside(aside))


def _row(
    item: Item, region: str, encoder: Encoder | Extractor, found: Loaded, config: EmbedConfig
) -> tuple[str, ...]:
    """What stands before the features. Regions are looked at as contrasts are: each alone, and side by side."""
    contrast = f"{item.contrast}:{region}".lstrip(":") if region else item.contrast
    seen = (config.window, config.pool) if isinstance(encoder, Encoder) else ("", "")
    return (
        *(item.scan, item.subject, item.session, contrast, item.path, *seen, region, "; ".join(found.notes)),
    )


def _warn_of_overlap(encoder: Encoder | Extractor, contents: list[str]) -> None:
    """Say so if the encoder was pre-trained on some of these very scans."""
    known = encoder.provenance.get("scans") if isinstance(encoder, Encoder) else encoder.pretraining
    scans = [content for own in contents for content in own.split(JOINT) if content]
    if known and (seen := overlap(known, scans)):
        logger.warning(
            "%d of %d scans were in this model's pre-training: evaluation on them is not on unseen data",
            len(seen),
            len(scans),
        )
