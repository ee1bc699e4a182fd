"""Features that were made elsewhere: a table with a row a scan, told by its path or by subject and contrast."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mdae.data.catalogue import ScanEntry
from mdae.data.columns import with_columns
from mdae.data.name_matching import bare
from mdae.data.preprocess import PreparedScan
from mdae.data.tables import read_table
from mdae.errors import DataError, ScanError
from mdae.interop.checkpoints import file_identity
from mdae.interop.raw import read_raw, recorded

COLUMN = re.compile(r"(f|feat|feature|dim|emb|embedding)?[_.-]?\d+", re.IGNORECASE)


class FeatureTable:
    """A table of features in the place of an encoder.

    Scans are read for their voxels' hash alone, so that copies are told as always.

    Args:
        path: of a table (.csv, .tsv, .xlsx, .parquet) with columns f0000, f0001, ... (or feature_0, 0, ...) and `path`,
            or `subject` with or without `contrast`.

    Raises:
        DataError: no such table, or one without such columns or with features that are not finite.
    """

    precision = "its own"
    pretraining: dict[str, Any] | None = None
    channels: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        table = with_columns(read_table(path), ("path", "subject", "contrast"))
        self.where, self.name = path, path.name.partition(".")[0]
        self.identity = self.fingerprint = file_identity(path)
        columns = [name for name in table.columns if COLUMN.fullmatch(str(name))]
        named = [name for name in ("path", "subject") if name in table.columns]
        if not columns or not named:
            lacking = "features (f0000, f0001, ...)" if not columns else "`path` or `subject`"
            raise DataError(f"no columns of {lacking}", where=path, mend="see docs/evaluation.md")
        values = table[columns].to_numpy(dtype=np.float64)
        if not np.isfinite(values).all():
            number = int((~np.isfinite(values)).any(axis=1).sum())
            raise DataError(f"features of {number} rows are not finite", where=path, mend="leave them out")
        self._rows: dict[tuple[str, ...], list[np.ndarray]] = {}
        contrasts = table["contrast"].fillna("").astype(str) if "contrast" in table.columns else None
        for number, row in enumerate(values):
            if "path" in named:
                place = (path.parent / str(table["path"].iloc[number])).resolve()
                self._rows.setdefault(("path", str(place)), []).append(row)
            if "subject" in named:
                contrast = "" if contrasts is None else contrasts.iloc[number].casefold()
                subject = bare(str(table["subject"].iloc[number]))
                self._rows.setdefault(("subject", subject, contrast), []).append(row)

    def prepare(self, entry: ScanEntry) -> PreparedScan:
        """The row of a scan in the place of its voxels; raises `ScanError` where there is none, or several."""
        subject = bare(entry.subject)
        keys = [("path", str(entry.path.resolve())), ("subject", subject, entry.contrast.casefold())]
        found = next((self._rows[key] for key in [*keys, ("subject", subject, "")] if key in self._rows), [])
        if len(found) != 1:
            what = (
                f"{len(found) or 'no'} {'rows' if len(found) > 1 else 'row'} of features in {self.where.name}"
            )
            raise ScanError(what, where=entry.path, mend="give one row a scan")
        raw = read_raw(entry)
        prepared = recorded(raw, raw.data, (1.0, 1.0, 1.0), mean=0.0, std=1.0, background=0.0)
        return replace(prepared, data=found[0].astype(np.float32).reshape(1, 1, -1))

    def features(self, prepared: PreparedScan) -> np.ndarray:
        """The features (F,), float32, of a row."""
        return np.asarray(prepared.data.ravel())
