"""`mdae prepare`: a pile of scans into a store, resumable; the unfit ones are set aside with reasons."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from mdae.data.catalogue import ScanEntry, sessions_together
from mdae.data.cluster import clear_notes, outcomes_of_jobs, set_aside_by_shards
from mdae.data.plan import Plan, measure
from mdae.data.preprocess import NNSSL, Preprocessing
from mdae.data.set_aside import SetAside, read_set_aside, read_table, write_set_aside
from mdae.data.sources import NNSSL_PREPARED, Listing, list_source, nothing
from mdae.data.splits import stale_splits
from mdae.data.store import Store, StoredScan
from mdae.data.subjects import warn_of
from mdae.data.upkeep import drop_copies, gone_from, tell_or_prune, to_do
from mdae.data.workers import outcomes
from mdae.errors import ConfigError
from mdae.progress import Progress
from mdae.text import printable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Prepare raw scans for pre-training: a pile of scans of any kind into a store.

    The same command again takes what is new or changed and redoes nothing else.
    """

    source: Positional[Annotated[Path, arg(metavar="SOURCE")]]
    """Folder of scans (.nii, .nii.gz, .mgz, .nrrd) or DICOM series, BIDS tree, OpenMind as downloaded, nnssl's
    pretrain_data.json, or a manifest (.csv, .tsv, .parquet) with a column `path`."""
    store: Positional[Annotated[Path, arg(metavar="STORE")]]
    """Folder of the store to make or to add to."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """How scans are prepared."""
    contrasts: tuple[str, ...] = ()
    """Take these contrasts alone."""
    max_quality_score: float | None = None
    """Leave out scans with a higher quality score (OpenMind's image_quality_score: lower is better)."""
    together: bool = False
    """Bring the contrasts of a session to one crop and one grid, that of the first of --contrasts (T1w, if left out):
    for `mdae pretrain --channels`. They have to lie over each other already."""
    derived: bool = False
    """Take DICOM series that were computed from others (reformatted, maps) as well."""
    keep_labels: bool = False
    """Take label maps (masks, segmentations) as well; they are told by name, by folder and by their voxels."""
    subject_from: str = "auto"
    """What tells the subject: auto (decided from the whole tree, and said), folder, name, or a regular expression
    searched in the path below SOURCE, whose first group is the subject."""
    subjects: Path | None = None
    """Table with columns `scan` and `subject`, which comes before what names tell."""
    workers: int = 0
    """Processes; 0 for one a core that this process may use."""
    cluster: Literal["none", "slurm", "local"] = "none"
    """Prepare here, or in shards as SLURM jobs, or as such jobs on this machine to try it."""
    shards: int = 16
    """Jobs on the cluster, of `workers` processes each (one a job if 0)."""
    cluster_options: tuple[str, ...] = ()
    """Passed on to submitit, such as slurm_partition=cpu mem_gb=16 timeout_min=600."""
    dry_run: bool = False
    """Only list what would be taken, and why not the rest."""
    measure: int = 0
    """Only prepare so many scans, drawn at random, to nowhere, and say how long and how large all would be."""
    prune: bool = False
    """Remove from the store the scans that SOURCE no longer holds (consent withdrawn, say); else it tells of them."""
    retry: bool = False
    """Look again at scans that were set aside, though their files have not changed."""
    contact_sheet: int = 0
    """Picture so many of the store's scans, evenly spread, in `contact_sheet/`; 0 for none."""

    def __post_init__(self) -> None:
        if self.shards < 1 or min(self.workers, self.measure, self.contact_sheet) < 0:
            raise ConfigError(
                "no shards or a negative number", mend="give --shards 1 or more, and 0 or more otherwise"
            )
        if unreadable := [option for option in self.cluster_options if "=" not in option]:
            raise ConfigError(
                f"cluster option {unreadable[0]!r}", mend="write NAME=VALUE, slurm_partition=cpu say"
            )


@dataclass(frozen=True)
class PrepareSummary:
    """What `prepare` did.

    Attributes:
        found, prepared, unchanged: numbers of scans.
        set_aside: what was looked at and not taken, while listing or while reading.
        seconds: wall time.
        listing: what the source holds.
        plan: what preparing all would take, if that was asked.
        in_store: how many scans the store holds now.
        pruned: how many were removed, which the source no longer holds.
    """

    found: int
    prepared: int
    unchanged: int
    set_aside: list[SetAside]
    seconds: float
    listing: Listing
    plan: Plan | None = None
    in_store: int = 0
    pruned: int = 0


def prepare(config: PrepareConfig, say: Callable[[str], None] = lambda line: None) -> PrepareSummary:
    """Bring a store up to date with a source.

    Args:
        config: what to do.
        say: is given the line that tells how the subjects were read, before anything is prepared.

    Raises:
        DataError: no scans, a store of another contract, a full disk, or a process that was killed.
        KeyboardInterrupt: after the store was left in order.
    """
    started = time.monotonic()
    source = printable(config.source.absolute())
    listing = list_source(
        config.source.absolute(),
        contrasts=config.contrasts,
        max_quality_score=config.max_quality_score,
        derived=config.derived,
        min_slices=config.preprocessing.min_slices,
        keep_labels=config.keep_labels,
        subject_from=config.subject_from,
        subjects=config.subjects,
        empty_ok=config.prune,
    )
    if not listing.entries and (config.measure or not _held(config.store, listing, source)):
        raise nothing(config.source, listing)
    say(listing.reading.line())
    warn_of(listing.reading, config.source)
    entries = [replace(entry, origin=source) for entry in listing.entries]
    contract = NNSSL if listing.kind == NNSSL_PREPARED else config.preprocessing
    if config.together:
        if contract is NNSSL:
            raise ConfigError("what nnssl has preprocessed stays on its grids", mend="prepare the raw scans")
        entries = sessions_together(entries, config.contrasts)
    if config.dry_run or config.measure:
        plan = measure(entries, contract, config.measure) if config.measure else None
        return PrepareSummary(len(entries), 0, 0, [], time.monotonic() - started, listing, plan)
    store = Store.create(config.store, contract)
    if not config.together and any(scan.together for scan in store.scans):
        raise ConfigError(
            "the store's sessions were prepared together", where=config.store, mend="give --together again"
        )
    remembered = {} if config.retry else set_aside_by_shards(store.path) | read_set_aside(store.path)
    todo = to_do(entries, store, remembered)
    wanted, aside = todo.wanted, todo.aside
    unchanged = len(entries) - len(wanted) - len(aside)
    stored: list[StoredScan] = []
    store.forget({entry.scan_id for entry in wanted} | {scan.scan_id for scan in todo.renamed})
    for scan in todo.renamed:
        store.describe(scan)
    try:
        with Progress("preparing", len(wanted)) as progress:
            for outcome in _run(wanted, store, config):
                (aside if isinstance(outcome, SetAside) else stored).append(outcome)  # type: ignore[arg-type]
                progress.advance(f"{len(aside)} set aside")
    finally:
        fresh = [*todo.renamed, *stored]
        store.refresh(fresh)
        copies = drop_copies(store, entries)
        store.write_manifest(fresh)
        found = [replace(row, source=source) for row in (*listing.left_out, *aside, *copies)]
        write_set_aside(config.store, [*_of_other_sources(config.store, source), *found])
    gone = gone_from(store, listing, source)
    if pruned := tell_or_prune(store, gone, source, prune=config.prune):
        store.write_manifest(fresh)
        for line in stale_splits(store):
            logger.warning("%s", line)
    clear_notes(config.store)  # whatever earlier jobs left undone is done
    if config.contact_sheet:
        from mdae.data.contact_sheet import write_contact_sheet  # here: it takes matplotlib

        write_contact_sheet(store, config.contact_sheet)
    prepared = len({scan.source for scan in stored} - {copy.path for copy in copies})
    seconds = time.monotonic() - started
    told = [row for row in (*listing.left_out, *aside, *copies) if not row.unseen]
    return PrepareSummary(
        *(len(entries), prepared, unchanged, told, seconds, listing),
        in_store=len(store.scans),
        pruned=len(gone) if pruned else 0,
    )


def _held(path: Path, listing: Listing, source: str) -> bool:
    """Whether a store that is there holds scans that its source no longer does."""
    there = (path / "store.json").exists()
    return there and bool(gone_from(Store.open(path, empty_ok=True), listing, source))


def _of_other_sources(store: Path, source: str) -> list[SetAside]:
    """What was set aside of other sources than this, as long as those are there."""
    rows = (row for row in read_table(store) if row.source not in ("", source))
    return [row for row in rows if Path(row.source).exists()]


def _run(entries: list[ScanEntry], store: Store, config: PrepareConfig) -> Iterator[StoredScan | SetAside]:
    """The scans' outcomes, from processes here or from jobs on a cluster."""
    if config.cluster == "none" or not entries:
        return outcomes(entries, store, config.workers)
    options = dict(option.partition("=")[::2] for option in config.cluster_options)
    return outcomes_of_jobs(
        entries,
        store,
        kind=config.cluster,
        shards=config.shards,
        workers=config.workers or 1,
        options=options,
    )
