"""What looks at a pre-training, as its configuration asks."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from mdae.data.columns import find_column
from mdae.data.joining import join_labels
from mdae.data.tables import read_table
from mdae.errors import DataError
from mdae.evaluation.online.probe import Labelled, Probe
from mdae.evaluation.online.voxels import voxel_probe
from mdae.evaluation.probing.targets import read_target
from mdae.seeding import numpy_generator
from mdae.training.diagnostics import Diagnostic
from mdae.training.diagnostics.standard import without_labels
from mdae.training.run import Run

SITES = ("site", "scanner", "center", "centre", "manufacturer", "institution")
MOST = 200  # subjects of each part: a look should take seconds, not minutes

logger = logging.getLogger(__name__)


def watching(run: Run) -> list[Diagnostic]:
    """Rank and deviation of features, and the probes that are asked for.

    Raises:
        DataError: a table, column or mask that does not do, or too few subjects held out.
    """
    config = run.config
    found = without_labels()
    if config.masks is not None:
        found.append(voxel_probe(run, config.masks))
    if config.probe is None:
        return found
    if run.validation is None:
        raise DataError("nobody is held out for the probe", where=config.probe, mend="give --val-fraction")
    table = read_table(config.probe)
    if config.label:
        labelled = labelled_scans(run, table, config.label, config.probe)
        labelled.require_enough(config.label, config.probe)
        found.append(Probe("probe", config.label, labelled, run))
    found += site_probe(run, table, config.probe)
    if len(found) == 2 and config.masks is None:
        raise DataError(
            "no label, and no column of sites or scanners", where=config.probe, mend="name one: --label"
        )
    return found


def site_probe(run: Run, table: pd.DataFrame, where: Path) -> list[Diagnostic]:
    """How well the scanner or site is told: the one that is named, or the one that the table has, if it can be."""
    asked = run.config.site
    names = [asked] if asked else [name for name in SITES if find_column(table, name) is not None]
    names = [name for name in names if asked or name != run.config.label]
    for name in names[:1]:
        try:
            labelled = labelled_scans(run, table, name, where)
            labelled.require_enough(name, where)
        except DataError as error:
            if asked:
                raise
            logger.warning("%s is not told from the features: %s", name, error.what)
            return []
        return [Probe("site", name, labelled, run, rises=False)]
    return []


def labelled_scans(run: Run, table: pd.DataFrame, label: str, where: Path) -> Labelled:
    """One scan of every subject that has the label: of the contrast that most of them have, the first one.

    Raises:
        DataError: no such column, nothing in common with the store, or no label in it.
    """
    table = table.drop(columns=[name for name in ("split",) if name in table.columns and name != label])
    rows = pd.DataFrame(
        [(s.scan_id, s.subject, s.session, s.contrast, s.source) for s in run.scans],
        columns=["scan", "subject", "session", "contrast", "path"],
    ).assign(place=range(len(run.scans)))
    joined = join_labels(rows, table, label, where)
    for note in joined.notes:
        logger.warning("%s: %s", where, note)
    own = joined.rows.copy()
    contrast = Counter(own.drop_duplicates(["subject", "contrast"])["contrast"]).most_common(1)[0][0]
    own = own[own["contrast"] == contrast].sort_values("scan").drop_duplicates("subject")
    parts = np.array(["test" if run.parts[name] == "val" else "train" for name in own["subject"]])
    kept = np.sort(np.concatenate([_some(np.flatnonzero(parts == part), run) for part in ("train", "test")]))
    own, parts = own.iloc[kept], parts[kept]
    scans = [run.scans[place] for place in own["place"]]
    return Labelled(scans, read_target(own[label], label, where), parts)


def _some(places: np.ndarray, run: Run) -> np.ndarray:
    """As many as a look takes, drawn once."""
    return numpy_generator(run.config.seed, "probed").permutation(places)[:MOST]
