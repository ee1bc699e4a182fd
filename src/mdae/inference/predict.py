"""`mdae predict`: new scans to a table, one after the other; what fails is named and the others go on."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mdae.data.ahead import ahead
from mdae.data.preprocess import PreparedScan
from mdae.data.tables import SUFFIXES, read_table, require_writer, write_table
from mdae.devices import settle_threads
from mdae.errors import DataError, ScanError
from mdae.evaluation.features.encoder import resolve_device
from mdae.extras import install, is_installed
from mdae.inference.config import PredictConfig
from mdae.inference.fitted import FittedModel
from mdae.inference.heads import Row
from mdae.inference.journal import Journal, stamp_of
from mdae.inference.load import load_fitted
from mdae.inference.masks import FittedMasks
from mdae.inference.record import RECORD, TENSORS
from mdae.inference.visits import Visit, find_visits
from mdae.inference.write_masks import PARTS, MaskWriter
from mdae.progress import Progress
from mdae.text import counted

TABLE = "predictions.csv"
ASIDE = ["path", "reason", "mend"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predicted:
    """The table, the scans without a prediction with the reasons, and where both were written."""

    table: pd.DataFrame
    set_aside: pd.DataFrame
    out: Path


Say = Callable[[Visit, list[PreparedScan], list[str]], Row]


def predict(config: PredictConfig) -> Predicted:
    """Predict, write the table, and beside it `NAME.set_aside.csv` if any scan could not be taken.

    Given again, it goes on where it was stopped; scans that have not changed since are not looked at again.

    Raises:
        ModelError: no fitted model there, or not its encoder.
        DataError: no scan to take, or all of them failed.
    """
    model = load_fitted(config.model, encoder=config.encoder, device=config.device)
    out = config.out if config.out.suffix.lower() in SUFFIXES else config.out / TABLE
    require_writer(out)
    if isinstance(model, FittedMasks):
        if out == config.out:
            raise DataError("masks go into a folder", where=out, mend="give --out one")
        config = _of_what_is_installed(config)
        return _of_scans(model, config, out, MaskWriter(model, config))
    if model.columns is not None:
        return _written(_of_tables(model, config.scans), [], out)
    _ = model.extractor  # opened here: a missing encoder is no scan's fault, and threads share one
    return _of_scans(model, config, out, functools.partial(_said, model))


def _of_what_is_installed(config: PredictConfig) -> PredictConfig:
    """Without what draws pictures there are none, which is told: the masks are what is wanted."""
    if not config.pictures or is_installed("matplotlib"):
        return config
    logger.warning("no pictures of the masks: matplotlib is not installed (%s)", install("matplotlib"))
    return replace(config, pictures=False)


def _said(model: FittedModel, visit: Visit, prepared: list[PreparedScan], notes: list[str]) -> Row:
    features, known = model.features(prepared, notes)
    return model.predict_features(features[None], [known])[0].row()


def _of_scans(model: FittedModel | FittedMasks, config: PredictConfig, out: Path, say: Say) -> Predicted:
    """Predict scan after scan; what an earlier start noted is not done again."""
    if resolve_device(config.device).type == "cpu":
        settle_threads()
    visits, aside = find_visits(config.scans, model.contrasts, model.channels)
    assert model.folder is not None
    maker = _identity(model.folder, config)
    with (
        Journal(out.with_name(f".{out.name}.done.jsonl"), maker) as journal,
        Progress("predicting", len(visits)) as progress,
    ):
        known = {visit.name: journal.done.get(_stamp(visit)) for visit in visits}
        rows = {name: row for name, row in known.items() if row is not None and _is_there(row, out)}
        if rows:
            progress.update(len(rows), "done before")
        waiting = [visit for visit in visits if visit.name not in rows]
        for visit, found in ahead(waiting, lambda visit: model.prepare(visit.scans), config.workers):
            try:
                prepared, notes = found.result()
                rows[visit.name] = say(visit, prepared, [visit.note, *notes] if visit.note else notes)
                journal.note(_stamp(visit), rows[visit.name])
            except (ScanError, DataError) as error:
                aside.append(
                    {"path": error.where or visit.path, "reason": error.what, "mend": error.mend or ""}
                )
            progress.advance(f"{len(aside)} set aside")
    predicted = [visit for visit in visits if visit.name in rows]
    parts = [{"scan": v.name, **part} for v in predicted for part in rows[v.name].pop(PARTS, ())]
    if parts:
        write_table(out.with_name("parts.csv"), pd.DataFrame(parts))
    return _written(pd.DataFrame([{**v.columns(), **rows[v.name]} for v in predicted]), aside, out)


def _is_there(row: Row, out: Path) -> bool:
    """Whether the mask that a row names, if it does, still is."""
    return "mask" not in row or (out.parent / str(row["mask"])).is_file()


def _identity(folder: Path, config: PredictConfig) -> str:
    """What tells a fitted model from another, and what is written of each scan."""
    digest = hashlib.sha256(repr((config.probabilities, config.pictures)).encode())
    for name in (RECORD, TENSORS):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _stamp(visit: Visit) -> str:
    try:
        return stamp_of(list(visit.scans.values()))
    except OSError:  # gone meanwhile: reading it will say so
        return visit.path


def _of_tables(model: FittedModel, tables: Sequence[Path]) -> pd.DataFrame:
    """Predictions of the rows of tables of features."""
    wanted, parts = model.columns, []
    for path in tables:
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(
                "the model was fitted on a table of features, and this is none",
                where=path,
                mend=f"give a table with the columns {', '.join((wanted or [])[:3])}, ...",
            )
        table = read_table(path)
        if missing := [name for name in wanted or [] if name not in table.columns]:
            raise DataError(f"{len(missing)} features are missing, e.g. {missing[0]}", where=path)
        said = pd.DataFrame(
            [one.row() for one in model.predict_features(table[wanted].to_numpy(dtype=float))]
        )
        parts.append(pd.concat([table.drop(columns=wanted or []).reset_index(drop=True), said], axis=1))
    return pd.concat(parts, ignore_index=True)


def _written(table: pd.DataFrame, aside: list[dict[str, str]], out: Path) -> Predicted:
    """Write both tables; raises `DataError` where there is nothing to write."""
    excluded = pd.DataFrame(aside, columns=ASIDE)
    beside = out.with_name(out.name + ".set_aside.csv")
    if aside:
        write_table(beside, excluded)
    else:
        beside.unlink(missing_ok=True)
    if table.empty:
        what = (
            f"nothing could be predicted of {counted(len(aside), 'scan')}, e.g. {aside[0]['reason']}"
            if aside
            else "no rows"
        )
        raise DataError(what, where=aside[0]["path"] if aside else out, mend="look at the file")
    write_table(out, table)
    return Predicted(table, excluded, out)
