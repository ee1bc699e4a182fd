"""`mdae predict`: new scans to a table, one after the other; what fails is named and the others go on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mdae.data.ahead import ahead
from mdae.data.catalogue import ScanEntry, unique
from mdae.data.sources import list_source
from mdae.data.tables import SUFFIXES, read_table, write_table
from mdae.errors import DataError, ScanError
from mdae.inference.config import PredictConfig
from mdae.inference.fitted import RECORD, TENSORS, FittedModel, load_fitted
from mdae.inference.journal import Journal, stamp_of
from mdae.progress import Progress

TABLE = "predictions.csv"
ASIDE = ["path", "reason", "mend"]


@dataclass(frozen=True)
class Predicted:
    """The table, the scans without a prediction with the reasons, and where both were written."""

    table: pd.DataFrame
    set_aside: pd.DataFrame
    out: Path


@dataclass(frozen=True)
class Visit:
    """A subject's scans that are looked at together, by contrast; `name` is one of its own."""

    name: str
    subject: str
    session: str
    scans: dict[str, ScanEntry]
    note: str = ""

    @property
    def path(self) -> str:
        """Its files."""
        return "; ".join(str(entry.path) for entry in self.scans.values())

    def columns(self) -> dict[str, str]:
        """Whose it is, for a table."""
        return {"scan": self.name, "subject": self.subject, "session": self.session, "path": self.path}


def predict(config: PredictConfig) -> Predicted:
    """Predict, write the table, and beside it `NAME.set_aside.csv` if any scan could not be taken.

    Given again, it goes on where it was stopped; scans that have not changed since are not looked at again.

    Raises:
        ModelError: no fitted model there, or not its encoder.
        DataError: no scan to take, or all of them failed.
    """
    model = load_fitted(config.model, encoder=config.encoder, device=config.device)
    out = config.out if config.out.suffix.lower() in SUFFIXES else config.out / TABLE
    if model.columns is not None:
        return _written(_of_tables(model, config.scans), [], out)
    visits, aside = find_visits(config.scans, model.contrasts)
    _ = model.extractor  # opened here: a missing encoder is no scan's fault, and threads share one
    with (
        Journal(out.with_name(f".{out.name}.done.jsonl"), _identity(Path(config.model))) as journal,
        Progress("predicting", len(visits)) as progress,
    ):
        known = {visit.name: journal.done.get(_stamp(visit)) for visit in visits}
        rows = {name: row for name, row in known.items() if row is not None}
        if rows:
            progress.update(len(rows), "done before")
        waiting = [visit for visit in visits if visit.name not in rows]
        for visit, found in ahead(waiting, lambda visit: model.prepare(visit.scans), config.workers):
            try:
                features, notes = model.features(*found.result())
                notes = [visit.note, *notes] if visit.note else notes
                rows[visit.name] = model.predict_features(features[None], [notes])[0].row()
                journal.note(_stamp(visit), rows[visit.name])
            except (ScanError, DataError) as error:
                aside.append(
                    {"path": error.where or visit.path, "reason": error.what, "mend": error.mend or ""}
                )
            progress.advance(f"{len(aside)} set aside")
    said = [{**visit.columns(), **rows[visit.name]} for visit in visits if visit.name in rows]
    return _written(pd.DataFrame(said), aside, out)


def _identity(folder: Path) -> str:
    """What tells a fitted model from another."""
    digest = hashlib.sha256()
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
            f"nothing could be predicted of {len(aside)} scans, e.g. {aside[0]['reason']}"
            if aside
            else "no rows"
        )
        raise DataError(what, where=aside[0]["path"] if aside else out, mend="look at the file")
    write_table(out, table)
    return Predicted(table, excluded, out)


# -- what is looked at ------------------------------------------------------------------------------------------------


def find_visits(
    sources: Sequence[Path], contrasts: tuple[str, ...]
) -> tuple[list[Visit], list[dict[str, str]]]:
    """The scans of sources as a model of these contrasts wants them, and what is not taken with the reasons."""
    aside: list[dict[str, str]] = []
    entries: list[ScanEntry] = []
    for source in sources:
        listing = list_source(source)
        aside += [{"path": row.path, "reason": row.reason, "mend": row.mend} for row in listing.left_out]
        entries += listing.entries
    entries = unique(entries, Path.cwd())
    if len(contrasts) > 1:
        return _complete(entries, contrasts, aside), aside
    (wanted,) = contrasts
    own = [entry for entry in entries if entry.contrast in (wanted, "") or not wanted]
    others = [entry for entry in entries if entry not in own]
    if not own:  # no name says that it is of the contrast: the user does
        note = f"its name does not say that it is {wanted}, which was fitted on"
        return [_alone(entry, wanted, note) for entry in others], aside
    aside += [
        {"path": str(e.path), "reason": f"of contrast {e.contrast}; {wanted} was fitted on", "mend": ""}
        for e in others
    ]
    return [_alone(entry, wanted, "") for entry in own], aside


def _alone(entry: ScanEntry, contrast: str, note: str) -> Visit:
    return Visit(entry.scan_id, entry.subject, entry.session, {contrast: entry}, note)


def _complete(
    entries: Sequence[ScanEntry], contrasts: tuple[str, ...], aside: list[dict[str, str]]
) -> list[Visit]:
    """A visit a subject's session that has each contrast once."""
    found: dict[tuple[str, str], dict[str, list[ScanEntry]]] = {}
    for entry in entries:
        if entry.contrast in contrasts:
            found.setdefault((entry.subject, entry.session), {}).setdefault(entry.contrast, []).append(entry)
    visits = []
    for (subject, session), own in sorted(found.items()):
        odd = next((name for name in contrasts if len(own.get(name, ())) != 1), "")
        if odd:
            reason = f"{len(own.get(odd, ()))} scans of {odd} in one visit; one is wanted"
            aside.append({"path": str(next(iter(own.values()))[0].path), "reason": reason, "mend": ""})
        else:
            name = "__".join(part for part in (subject, session) if part)
            visits.append(Visit(name, subject, session, {name: own[name][0] for name in contrasts}))
    if not visits:
        reason = f"no visit has a scan of each of {', '.join(contrasts)}"
        raise DataError(reason, where=entries[0].path if entries else None, mend="check the scans' names")
    return visits
