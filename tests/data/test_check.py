"""`mdae check` and `--measure`: what is there, what failed and why, what all would take."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from mdae.cli import main
from mdae.data.check import CheckConfig, check
from mdae.data.cluster import ShardNote
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.set_aside import SetAside
from tests.conftest import COARSE, LABELS


@pytest.fixture
def copy(store, tmp_path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "store"))


def test_it_says_what_is_there_and_what_was_set_aside(cohort, tmp_path, capsys):
    source = Path(shutil.copytree(cohort, tmp_path / "in"))
    for label in LABELS[:2]:
        (source / f"sub-{label}" / "anat" / f"sub-{label}_T1w.nii.gz").write_bytes(b"\x1f\x8b nothing")
    prepare(PrepareConfig(source=source, store=tmp_path / "store", preprocessing=COARSE, workers=1))
    main(["check", str(tmp_path / "store")])
    said = capsys.readouterr().out
    assert "22 volumes of 12 subjects, 8 x 8 x 8 mm" in said
    assert "contrasts: 12 FLAIR, 10 T1w" in said
    assert "set aside: 2" in said and "  2 x truncated or damaged gzip" in said


def test_damaged_volumes_are_found_when_asked(copy, capsys):
    assert check(CheckConfig(store=copy, volumes=True)).sound
    path = next(iter(sorted((copy / "volumes").iterdir())))
    raw = bytearray(path.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 400] = bytes(400)
    path.write_bytes(bytes(raw))
    assert check(CheckConfig(store=copy)).sound, "not asked"
    path.write_bytes(bytes(raw[:200]))
    with pytest.raises(SystemExit) as caught:
        main(["check", str(copy), "--volumes"])
    assert caught.value.code == 1
    assert f"damaged: {path}" in capsys.readouterr().out
    (copy / "manifest.jsonl").unlink()
    assert [error.where for error in check(CheckConfig(store=copy)).damaged] == [str(path)], "seen unasked"


def test_shards_that_did_not_end_well_are_named(copy, capsys):
    ShardNote(0, 10, "done").write(copy)
    ShardNote(1, 10, "failed", "node7", 5.0, "logs/1.err", "DataError: the disk is full").write(copy)
    ShardNote(2, 10, "running", "node8", 5.0, "logs/2.err").write(copy)
    ShardNote(3, 10).write(copy)
    (copy / "jobs" / "shards" / "00004.json").write_text("{")
    with pytest.raises(SystemExit):
        main(["check", str(copy)])
    said = capsys.readouterr().out
    assert "shard 0" not in said
    assert "shard 1 on node7 failed: DataError: the disk is full; log: logs/1.err" in said
    assert "shard 2 on node8 runs since 1970" in said and "shard 3 of 10 scans: not begun" in said


def test_what_a_shard_set_aside_is_remembered_though_its_submitter_died(cohort, copy, tmp_path):
    bad = tmp_path / "in" / "bad.nii.gz"
    bad.parent.mkdir()
    bad.write_bytes(b"\x1f\x8b nothing")
    row = SetAside(str(bad), "seen by a shard").stamped()
    ShardNote(0, 1, "done", set_aside=[asdict(row)]).write(copy)
    summary = prepare(PrepareConfig(source=bad.parent, store=copy, preprocessing=COARSE, workers=1))
    assert [row.reason for row in summary.set_aside] == ["seen by a shard"]
    assert not list((copy / "jobs" / "shards").iterdir()), "all is in the table now"
    assert [row.reason for row in check(CheckConfig(store=copy)).set_aside] == ["seen by a shard"]


def test_a_scan_that_was_taken_since_is_not_set_aside(cohort, copy):
    taken = next(iter(sorted(cohort.rglob("*_T1w.nii.gz"))))
    row = SetAside(str(taken), "seen by a shard").stamped()
    ShardNote(0, 1, "failed", set_aside=[asdict(row)]).write(copy)
    assert check(CheckConfig(store=copy)).set_aside == []


def test_a_plan_is_measured_and_writes_nothing(cohort, tmp_path, capsys):
    store = tmp_path / "store"
    spacing = ["--spacing-mm", "8", "8", "8"]
    main(["prepare", str(cohort), str(store), "--measure", "5", *spacing])
    said = capsys.readouterr().out
    assert "measured on 5 scans, one core (0 set aside)" in said and "all 24 scans would take" in said
    assert not store.exists()
    real = prepare(PrepareConfig(source=cohort, store=store, preprocessing=COARSE, workers=1))
    plan = prepare(
        PrepareConfig(source=cohort, store=store, preprocessing=COARSE, workers=1, measure=24)
    ).plan
    assert plan is not None and real.prepared == 24
    assert sum(plan.num_bytes) == sum(path.stat().st_size for path in (store / "volumes").iterdir())
