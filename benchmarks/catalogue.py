"""What a store of 100,000 scans costs before the first step: seconds and memory, ours and nnssl's list of as many.

    python -m benchmarks.catalogue [--scans 100000]

The scans are made up: rows and names as OpenMind's, volumes without voxels. Ours is everything that `mdae pretrain`
does until its sampler knows the first crop; nnssl's is reading `pretrain_data.json` into the list that its loader draws
from, as its trainer does. Each runs in a process of its own. "drawing" is the time to know one crop from its number.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import peer_nnssl
from benchmarks.common import own_peak_memory_gib, save, show
from mdae.data.preprocess import Preprocessing
from mdae.data.store import Store, StoredScan
from mdae.training.config import PretrainConfig
from mdae.training.run import open_run

PER_SUBJECT = 3


def names(number: int) -> tuple[str, str, str]:
    """Data set, subject and file of a made-up scan."""
    subject = f"sub-{number // PER_SUBJECT:05d}"
    return f"ds{number // PER_SUBJECT % 800:06d}", subject, f"{subject}_ses-1_run-{number}_T1w"


def make_store(path: Path, number: int) -> None:
    """A store of empty volumes and its manifest."""
    store = Store.create(path, Preprocessing())
    (path / "volumes").mkdir()
    for i in range(number):
        dataset, subject, file = names(i)
        scan = StoredScan(
            scan_id=f"{dataset}__{subject}__ses-1__{file}",
            subject=f"{dataset}/{subject}",
            session="1",
            contrast="T1w",
            shape=(170, 205, 180),
            size=9_000_000 + i,
            modified_ns=1_760_000_000_000_000_000 + i,
            source=f"/data/OpenMind/{dataset}/{subject}/ses-1/anat/{file}.nii.gz",
            content=f"{i:020x}",
            background=-1.3 - 1e-6 * i,
            unknown=0.0,
        )
        store.volume_path(scan.scan_id).touch()
        store.scans.append(scan)
    store.forget(())


def make_list(path: Path, number: int) -> None:
    """nnssl's list of the same scans."""
    datasets: dict[str, dict] = {}
    for i in range(number):
        dataset, subject, file = names(i)
        people = datasets.setdefault(
            dataset, {"dataset_index": dataset, "dataset_info": {}, "name": None, "subjects": {}}
        )["subjects"]
        session = {"session_id": "ses-1", "session_info": None, "images": []}
        person = people.setdefault(
            subject, {"subject_id": subject, "subject_info": {}, "sessions": {"ses-1": session}}
        )
        folder = f"$nnssl_preprocessed/Dataset745_OpenMind/nnsslPlans_onemmiso/{dataset}/{subject}/ses-1"
        person["sessions"]["ses-1"]["images"].append(
            {
                "name": f"{file}.nii.gz",
                "modality": "T1w",
                "image_info": {},
                "image_path": f"{folder}/{file}.b2nd",
            }
        )
    path.write_text(
        json.dumps({"collection_index": 745, "collection_name": "Dataset745_OpenMind", "datasets": datasets})
    )


def start_ours(path: Path) -> tuple[float, float]:
    """Seconds from nothing to a run that can draw, and seconds a draw."""
    started = time.perf_counter()
    run = open_run(PretrainConfig(store=path, out=path / "run", network="tiny"))
    run.train(0)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    for sample in range(1, 1001):
        run.train(sample)
    return seconds, (time.perf_counter() - started) / 1000


def start_peer(path: Path, read: Callable[[Path], list[Any]]) -> tuple[float, float | None]:
    """Seconds from nnssl's list on disk to its list in memory; nothing comparable is drawn from it."""
    started = time.perf_counter()
    kept = read(path)
    assert kept
    return time.perf_counter() - started, None


def in_own_process(side: str, path: Path) -> dict[str, object]:
    """One side's row, from a process that does nothing else."""
    command = [sys.executable, "-m", "benchmarks.catalogue", "--only", side, "--path", str(path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    row: dict[str, object] = json.loads(out.strip().splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scans", type=int, default=100_000)
    parser.add_argument("--only", choices=["ours", "nnssl"], help="one side in this process")
    parser.add_argument("--path", type=Path)
    options = parser.parse_args()
    if options.only:
        read = (
            peer_nnssl.list_reader() if options.only == "nnssl" else None
        )  # imports are not what is measured
        before = own_peak_memory_gib()
        seconds, draw = start_peer(options.path, read) if read else start_ours(options.path)
        memory = 1024 * (own_peak_memory_gib() - before)
        row = {
            "side": options.only,
            "start_s": seconds,
            "peak_mib": memory,
            "drawing_us": None if draw is None else draw * 1e6,
        }
        print(json.dumps(row))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_store(folder / "store", options.scans)
        make_list(folder / "pretrain_data.json", options.scans)
        rows = []
        for _ in range(3):
            rows.append(in_own_process("ours", folder / "store"))
            rows.append(in_own_process("nnssl", folder / "pretrain_data.json"))
    show(rows)
    save("catalogue", rows)


if __name__ == "__main__":
    main()
