"""`mdae download`: OpenMind from the Hugging Face Hub, all of it or a part, resumable."""

from __future__ import annotations

import errno
import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mdae.data.catalogue import ScanEntry
from mdae.data.openmind import FOLDER, TABLE, openmind_rows
from mdae.data.sources import unwanted
from mdae.errors import ConfigError, DataError
from mdae.progress import Progress

HOPELESS = 20  # files in a row that fail: the network is down, or the Hub refuses


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """Download OpenMind, or a part of it, from the Hugging Face Hub.

    The same command again takes what is missing. Then: mdae prepare OUT STORE.
    """

    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """Where to."""
    contrasts: tuple[str, ...] = ()
    """Take these contrasts alone, T1w T2w say."""
    max_quality_score: float | None = None
    """Leave out scans with a higher image_quality_score: lower is better."""
    datasets: tuple[str, ...] = ()
    """Take these data sets alone, ds000001 say."""
    subjects: int = 0
    """So many subjects, drawn by the seed; 0 for all. A larger number keeps those of a smaller one."""
    seed: int = 0
    """Decides which subjects."""
    repo: str = "AnonRes/OpenMind"
    """The data set's name on the Hub; another of the same layout will do."""
    revision: str = "main"
    """Branch, tag or commit."""
    workers: int = 8
    """Files at once."""
    dry_run: bool = False
    """Only fetch the table and say what would be taken."""

    def __post_init__(self) -> None:
        if self.subjects < 0 or self.workers < 1:
            raise ConfigError("a negative number of subjects or no worker", mend="give --workers 1 or more")


@dataclass(frozen=True)
class Download:
    """What a download took.

    Attributes:
        scans: those that were wanted.
        files: what they and their masks are made of.
        fetched: how many of these files were not there yet.
        num_bytes: of the files that are there now.
    """

    scans: list[ScanEntry]
    files: list[Path]
    fetched: int
    num_bytes: int

    def contrasts(self) -> dict[str, int]:
        """Number of scans by contrast, most first."""
        return dict(Counter(scan.contrast for scan in self.scans).most_common())


def download(config: DownloadConfig) -> Download:
    """Fetch the table, choose, and fetch what is missing; whole files only, by huggingface_hub.

    Raises:
        DataError: the Hub cannot be reached or refuses, nothing fits, or some files failed after all were tried.
    """
    try:
        _fetch(config, TABLE)
    except Exception as error:  # huggingface_hub, its HTTP client and the system each have their own
        raise DataError(
            f"the table of {config.repo} cannot be fetched ({_reason(error)})",
            where=config.out / TABLE,
            mend="check the network and the name; `hf auth login` if the data set asks for it",
        ) from error
    scans = _chosen(config)
    files = sorted({path for scan in scans for path in _files(scan)})
    missing = [path for path in files if not path.is_file()]
    if not config.dry_run:
        _fetch_all(config, missing)
    there = [path.stat().st_size for path in files if path.is_file()]
    return Download(scans, files, 0 if config.dry_run else len(missing), sum(there))


def _chosen(config: DownloadConfig) -> list[ScanEntry]:
    """The wanted scans of the table."""
    scans = [
        entry
        for entry in openmind_rows(config.out / TABLE, config.out / FOLDER)
        if not unwanted(entry, config.contrasts, config.max_quality_score)
        and (not config.datasets or entry.subject.split("/")[0] in config.datasets)
    ]
    if config.subjects:
        order = sorted({scan.subject for scan in scans}, key=lambda name: _rank(name, config.seed))
        kept = set(order[: config.subjects])
        scans = [scan for scan in scans if scan.subject in kept]
    if not scans:
        raise DataError("no scan fits", where=config.out / TABLE, mend="ask for more contrasts or data sets")
    return scans


def _rank(subject: str, seed: int) -> bytes:
    """A random order that does not depend on who else is in it."""
    return hashlib.sha256(f"{seed}\0{subject}".encode()).digest()


def _files(scan: ScanEntry) -> Iterator[Path]:
    yield scan.path
    yield from (mask for mask in (scan.anatomy_mask, scan.anonymisation_mask) if mask is not None)


def _fetch_all(config: DownloadConfig, files: list[Path]) -> None:
    """Fetch files, several at once; those that fail are counted at the end, which many in a row or a full disk are."""
    failed: list[tuple[Path, BaseException]] = []
    in_a_row = 0
    pool = ThreadPoolExecutor(config.workers)
    try:
        with Progress("downloading", len(files), unit="files") as progress:
            names = {pool.submit(_fetch, config, str(path.relative_to(config.out))): path for path in files}
            for future in as_completed(names):
                error = future.exception()
                in_a_row = 0 if error is None else in_a_row + 1
                if error is not None:
                    failed.append((names[future], error))
                progress.advance(f"{len(failed)} failed")
                if in_a_row == HOPELESS or getattr(error, "errno", None) == errno.ENOSPC:
                    break
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        path, error = failed[0]
        raise DataError(
            f"{len(failed)} of {len(files)} files could not be fetched, e.g. this one ({_reason(error)})",
            where=path,
            mend="the same command goes on from there",
        )


def _fetch(config: DownloadConfig, name: str) -> None:
    """One file; a half of it from an earlier try is taken up."""
    from huggingface_hub import hf_hub_download  # here: it is slow to import
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # ours counts files
    hf_hub_download(config.repo, name, repo_type="dataset", revision=config.revision, local_dir=config.out)


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
