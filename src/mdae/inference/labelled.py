"""LABELS and the scans they speak of, as features and labels side by side: a row a subject's visit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mdae.data.catalogue import ScanEntry
from mdae.data.columns import TEXT, folded, with_columns
from mdae.data.sources import PARTICIPANTS, list_source
from mdae.data.stack import JOINT
from mdae.data.tables import SUFFIXES, attach_labels, read_table
from mdae.errors import DataError
from mdae.evaluation.features.cache import FeatureCache, default_folder
from mdae.evaluation.features.session import session_entry, sessions_of
from mdae.evaluation.probing.probe import feature_matrix
from mdae.inference.config import FitConfig
from mdae.text import counted

if TYPE_CHECKING:
    from mdae.evaluation.features.extractors import Extractor

SHOWN = 20  # scans that are left out and named, with the reason
AUTO_TIME, AUTO_EVENT = "time", "event"  # columns that say survival by themselves

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labelled:
    """Features with labels.

    Attributes:
        features: (N, F), the contrasts side by side.
        subjects: (N,) names; all rows of one are on one side of every split.
        values: (N,) of the label's column.
        events: (N,) of the event's column; None if there is none.
        label, event: the columns.
        contrasts: whose features stand side by side, or which the encoder saw at once.
        contents: hashes of the scans' voxels, none of a table's.
        columns: the features' names in a table; None if scans were embedded.
    """

    features: np.ndarray
    subjects: np.ndarray
    values: pd.Series
    events: pd.Series | None
    label: str
    event: str
    contrasts: tuple[str, ...]
    contents: list[str]
    columns: list[str] | None = None


def is_table(path: str | Path) -> bool:
    """Whether it is a file of a table's name."""
    return Path(path).suffix.lower() in SUFFIXES and Path(path).is_file()


def labels_table(labels: Path) -> Path:
    """The table itself, or the participants.tsv of a BIDS tree.

    Raises:
        DataError: neither.
    """
    if (labels / PARTICIPANTS).is_file():
        return labels / PARTICIPANTS
    if labels.is_dir() or not labels.exists():
        raise DataError(
            "no table of labels, BIDS tree, folder of masks or nnU-Net data set there"
            if labels.exists()
            else "no such file or folder",
            where=labels,
            mend="give a .csv, .tsv or .parquet, or a folder of masks with --scans",
        )
    return labels


def label_columns(config: FitConfig, table: pd.DataFrame, where: Path) -> tuple[str, str]:
    """The label's column and the event's ("" if there is none), as named or as the table leaves no choice.

    Raises:
        DataError: several columns could be meant.
    """
    if config.label:
        return config.label, config.event
    names = [str(name) for name in table.columns]
    if not config.event and {AUTO_TIME, AUTO_EVENT} <= set(names):
        return AUTO_TIME, AUTO_EVENT
    free = [name for name in names if folded(name) not in TEXT and name != config.event]
    if len(free) != 1:
        shown = ", ".join(free[:8]) + (", ..." if len(free) > 8 else "")
        raise DataError(
            f"{len(free)} columns could be the label ({shown})", where=where, mend="name one with --label"
        )
    return free[0], config.event


def gather(config: FitConfig, extractor: Extractor | None) -> Labelled:
    """Features and labels of whoever has both.

    Args:
        config: what was asked for.
        extractor: turns scans into features; None where `config.encoder` is a table of features.

    Raises:
        DataError: what cannot be read or joined, or nobody is left.
    """
    where = labels_table(config.labels)
    table = read_table(where)
    if "path" in table.columns:  # as a manifest's are: from its own folder
        table["path"] = [str(where.parent / str(path)) for path in table["path"]]
    label, event = label_columns(config, table, where)
    entries: list[ScanEntry] = []
    if extractor is None:
        rows = _with_names(read_table(Path(config.encoder)), Path(config.encoder))
    else:
        rows, entries = _scans(config, where, table)
    joined = attach_labels(rows, table, label, where)
    if event:
        joined = attach_labels(joined, table.drop(columns="split", errors="ignore"), event, where)
    channels = () if extractor is None else extractor.channels
    if channels:
        wanted = [entry for entry in entries if entry.contrast in (config.contrasts or (entry.contrast,))]
        joined, entries = _sessions(joined, wanted, channels, [label, *filter(None, [event])], where)
        contrasts: tuple[str, ...] = (JOINT.join(channels),)
    else:
        contrasts = _contrasts(joined, config, where)
    joined = joined[joined["contrast"].isin(contrasts)]
    if extractor is None:
        columns = [name for name in rows.columns if name[:1] == "f" and name[1:].isdigit()]
        features, contents = feature_matrix(joined), np.full(len(joined), "", dtype=object)
    else:
        columns = None
        joined, features, contents = _embedded(joined, entries, extractor, config)
    kept, features = _side_by_side(joined, features, contrasts, where)
    return Labelled(
        features=features,
        subjects=kept["subject"].astype(str).to_numpy(),
        values=kept[label],
        events=kept[event] if event else None,
        label=label,
        event=event,
        contrasts=channels or contrasts,
        contents=[own for content in contents for own in content.split(JOINT) if own],
        columns=columns,
    )


def _with_names(rows: pd.DataFrame, where: Path) -> pd.DataFrame:
    """A table of features with the columns that scans are told apart by."""
    own = with_columns(rows, ("subject", "scan", "session", "contrast")).copy()
    if "subject" not in own.columns:
        raise DataError(
            "no column 'subject'", where=where, mend="name whose features they are: a subject is a person"
        )
    for name in ("session", "contrast"):
        own[name] = own[name].fillna("") if name in own.columns else ""
    if "scan" not in own.columns:
        own["scan"] = own["subject"]
    return own


def _scans(config: FitConfig, where: Path, table: pd.DataFrame) -> tuple[pd.DataFrame, list[ScanEntry]]:
    """The scans that the labels may speak of, as a table with their names, and as entries in the same order."""
    source = config.scans or (where if "path" in table.columns else where.parent)
    entries = list_source(source, subjects=config.subjects).entries
    rows = [(e.scan_id, e.subject, e.session, e.contrast, str(e.path)) for e in entries]
    names = pd.DataFrame(rows, columns=["scan", "subject", "session", "contrast", "path"])
    return names.assign(entry=range(len(entries))), entries


def _sessions(
    joined: pd.DataFrame,
    entries: Sequence[ScanEntry],
    channels: Sequence[str],
    labels: Sequence[str],
    where: Path,
) -> tuple[pd.DataFrame, list[ScanEntry]]:
    """A row a session any scan of which has a label, and its scans as one entry, with all that are channels.

    Raises:
        DataError: no such session, or one whose scans have different labels.
    """
    sessions, others = sessions_of(entries, channels, where)
    if others:
        logger.warning("left out: %s, e.g. %s", counted(len(others), "scan"), others[0].reason)
    rows: list[dict[str, Any]] = []
    joint: list[ScanEntry] = []
    by_session = dict(iter(joined.groupby(["subject", "session"], sort=False)))
    for own in sessions:
        entry = session_entry(own, channels)
        found = by_session.get((entry.subject, entry.session))
        if found is None:
            continue
        if len(found[list(labels)].drop_duplicates()) > 1:
            raise DataError(
                f"scans of one session of {entry.subject} with different labels",
                where=where,
                mend="give a session one label, as its scans are seen together",
            )
        rows.append({**found.iloc[0], "contrast": entry.contrast, "entry": len(joint)})
        joint.append(entry)
    if not joint:
        raise DataError(f"no labelled session with a scan of {', '.join(channels)}", where=where)
    return pd.DataFrame(rows), joint


def _contrasts(joined: pd.DataFrame, config: FitConfig, where: Path) -> tuple[str, ...]:
    """Those asked for, or the only one; raises `DataError` where there is a choice."""
    found = sorted(set(joined["contrast"]))
    if unknown := [name for name in config.contrasts if name not in found]:
        raise DataError(
            f"no labelled scan of contrast {unknown[0]}; there are {', '.join(found)}", where=where
        )
    if config.contrasts or len(found) == 1:
        return config.contrasts or tuple(found)
    raise DataError(
        f"labelled scans of {len(found)} contrasts ({', '.join(found[:8])})",
        where=where,
        mend="name one with --contrasts, or several to put side by side",
    )


def _embedded(
    joined: pd.DataFrame, entries: Sequence[ScanEntry], extractor: Extractor, config: FitConfig
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """The rows whose scans could be embedded, each scan once; their features and the hashes of their voxels."""
    cache = FeatureCache(config.cache or default_folder(), extractor)
    wanted = [entries[index] for index in joined["entry"]]
    failed = cache.fill(wanted, workers=config.workers)
    for path, error in list(failed.items())[:SHOWN]:
        logger.warning("left out: %s: %s", path, error.what)
    if len(failed) > SHOWN:
        logger.warning("left out: %d more", len(failed) - SHOWN)
    there = [str(entry.path) not in failed for entry in wanted]
    if not any(there):
        path, error = next(iter(failed.items()))
        raise DataError(f"no scan can be embedded, e.g. {error.what}", where=path, mend="look at the file")
    contents = np.array([cache.content(entry) if ok else "" for entry, ok in zip(wanted, there, strict=True)])
    fit = np.array(there) & ~_copies(contents, joined)
    if copies := int(sum(there)) - int(fit.sum()):
        logger.warning("left out: %s with the voxels of another subject's", counted(copies, "scan"))
    features = [cache.read(entry) for entry, ok in zip(wanted, fit, strict=True) if ok]
    stacked = np.stack([own for own in features if own is not None]).astype(np.float64)
    if not np.isfinite(stacked).all():
        raise DataError(
            "features are NaN or infinite", where=config.encoder, mend="check the encoder's weights"
        )
    return joined[fit], stacked, contents[fit]


def _copies(contents: np.ndarray, joined: pd.DataFrame) -> np.ndarray:
    """(N,) whether a scan's voxels are an earlier row's of another subject: one person would be on both sides."""
    first: dict[str, str] = {}
    subjects = joined["subject"].astype(str)
    return np.array(
        [
            any(first.setdefault(own, subject) != subject for own in content.split(JOINT) if own)
            for content, subject in zip(contents, subjects, strict=True)
        ]
    )


def _side_by_side(
    rows: pd.DataFrame, features: np.ndarray, contrasts: tuple[str, ...], where: Path
) -> tuple[pd.DataFrame, np.ndarray]:
    """Of several contrasts, a row a subject's visit that has all of them, their features side by side."""
    rows = rows.reset_index(drop=True)
    if len(contrasts) == 1:
        return rows, features
    kept, stacked = [], []
    for (subject, _), own in rows.groupby(["subject", "session"], sort=True):
        if own["contrast"].duplicated().any():
            twice = own["contrast"][own["contrast"].duplicated()].iloc[0]
            raise DataError(
                f"subject {subject} has two scans of {twice} in one session",
                where=where,
                mend="keep one of them, or name the sessions",
            )
        places = dict(zip(own["contrast"], own.index.to_numpy(dtype=int), strict=True))
        if all(name in places for name in contrasts):
            kept.append(places[contrasts[0]])
            stacked.append(np.concatenate([features[places[name]] for name in contrasts]))
    if not kept:
        raise DataError(
            f"no subject has all of {', '.join(contrasts)}", where=where, mend="name fewer --contrasts"
        )
    if missing := rows.groupby(["subject", "session"]).ngroups - len(kept):
        logger.warning("left out: %d visits without all of %s", missing, ", ".join(contrasts))
    return rows.loc[kept], np.stack(stacked)
