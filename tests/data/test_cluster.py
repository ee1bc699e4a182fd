"""Preparing by jobs: the store of shards is the store of one process, and a failed shard costs a line, not the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mdae.data.catalogue import ScanEntry
from mdae.data.check import CheckConfig, check
from mdae.data.cluster import outcomes_of_jobs
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import Preprocessing
from mdae.data.store import Store, StoredScan
from mdae.errors import ConfigError, DataError
from tests.conftest import COARSE
from tests.data.test_store import await_true, children


def config(source: Path, store: Path, **changes: object) -> PrepareConfig:
    return PrepareConfig(source=source, store=store, **{"preprocessing": COARSE, "workers": 1, **changes})


def test_shards_make_the_same_store(cohort, store, tmp_path):
    summary = prepare(config(cohort, tmp_path / "store", cluster="local", shards=3))
    assert (summary.prepared, summary.set_aside) == (24, [])
    ours, plain = Store.open(tmp_path / "store"), Store.open(store)
    assert ours.scans == plain.scans and len(ours.scans) == 24
    assert all(ours.read(scan).tobytes() == plain.read(scan).tobytes() for scan in ours.scans)
    again = prepare(config(cohort, tmp_path / "store", cluster="local", shards=3))
    assert (again.prepared, again.unchanged) == (0, 24)


def test_a_failed_shard_is_named_and_the_others_stay(cohort, tmp_path):
    path = cohort / "sub-A0001" / "anat" / "sub-A0001_T1w.nii.gz"
    good, breaks = ScanEntry("a", "a", "", "", path), ScanEntry("blocked/b", "b", "", "", path)
    store = Store.create(tmp_path / "store", COARSE)
    (store.path / "volumes").mkdir()
    (store.path / "volumes" / "blocked").touch()  # a file where that volume's folder would be
    found: list[object] = []
    jobs = outcomes_of_jobs([good, breaks], store, kind="local", shards=2, workers=1, options={})
    with pytest.raises(DataError, match=r"1 of 2 shards failed, e\.g\. .*a file stands where") as caught:
        for outcome in jobs:
            found.append(outcome)  # a list of them would be lost with the error
    assert caught.value.where and Path(caught.value.where).exists()
    assert [outcome.scan_id for outcome in found if isinstance(outcome, StoredScan)] == ["a"]
    assert [scan.scan_id for scan in Store.open(tmp_path / "store").scans] == ["a"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cluster": "slurm"}, "slurm jobs cannot be submitted"),
        ({"cluster": "local", "cluster_options": ("colour=red",)}, "local jobs cannot be submitted"),
    ],
)
def test_what_cannot_be_submitted_has_one_line(cohort, tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said) as caught:
        prepare(config(cohort, tmp_path / "store", **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"cluster_options": ("fast",)}, {"shards": 0}])
def test_options_that_make_no_sense_are_refused_at_once(tmp_path, changes):
    with pytest.raises(ConfigError):
        config(tmp_path, tmp_path / "store", **changes)


@pytest.mark.slow  # submitit waits long for what does not come
def test_a_shard_killed_with_kill_9_loses_nothing(cohort, tmp_path):
    """The jobs are killed without a chance to say anything; the same command ends with the undisturbed store."""
    fine = Preprocessing(spacing_mm=(3.0, 3.0, 3.0))  # slow enough to be caught in the middle
    out = tmp_path / "store"
    command = [sys.executable, "-m", "mdae", "prepare", str(cohort), str(out), "--cluster", "local"]
    command += ["--shards", "2", "--workers", "1", "--spacing-mm", "3", "3", "3"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    await_true(lambda: any((out / "volumes").glob("[!.]*.b2nd")))
    for pid in descendants(process.pid):
        if "submitit.core._submit" in command_line(pid):
            os.kill(pid, signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and "shards failed" in said and "Traceback" not in said.splitlines()[-1]
    unfinished = check(CheckConfig(store=out)).shards
    assert unfinished and {note.state for note in unfinished} <= {"running", "waiting"}
    again = prepare(config(cohort, out, preprocessing=fine))
    assert again.prepared + again.unchanged == 24 and again.unchanged >= 1
    prepare(config(cohort, tmp_path / "plain", preprocessing=fine))
    ours, plain = Store.open(out), Store.open(tmp_path / "plain")
    assert ours.scans == plain.scans
    assert all(ours.read(scan).tobytes() == plain.read(scan).tobytes() for scan in ours.scans)


def descendants(parent: int) -> list[int]:
    """Processes below a process."""
    own = children(parent)
    return [*own, *(pid for child in own for pid in descendants(child))]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
