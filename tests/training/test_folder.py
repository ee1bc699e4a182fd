"""A run owns its folder: one at a time, nothing of another's is written over, nothing half written stays."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from mdae.errors import ConfigError
from mdae.training.folder import owned
from mdae.training.identity import changes
from mdae.training.launch import World
from mdae.training.loop import pretrain
from mdae.training.place import Place
from tests.conftest import short_run

ALONE = World(Place(), torch.device("cpu"))


@pytest.fixture(scope="module")
def finished(named_store, tmp_path_factory) -> Path:
    """A run of two steps."""
    out = tmp_path_factory.mktemp("finished") / "run"
    pretrain(short_run(named_store, out, steps=2))
    return out


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def test_a_second_run_is_refused_by_the_name_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr("mdae.training.folder.WAIT_S", 0.1)
    with owned(tmp_path, ALONE):
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on ") as caught, owned(tmp_path, ALONE):
            pass
        assert "--out" not in str(caught.value)
    with owned(tmp_path, ALONE):
        pass


def test_what_killed_saves_left_is_swept_and_nothing_else(tmp_path):
    left = [
        tmp_path / "checkpoints" / ".4711.part.step-00000004.pt",
        tmp_path / "model" / ".99.part.model.safetensors",
        tmp_path / ".1.part.run.json",
    ]
    kept = [
        tmp_path / "checkpoints" / "step-00000002.pt",
        tmp_path / ".notes.part.txt",
        tmp_path / "a.part.b",
    ]
    for path in (*left, *kept):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with owned(tmp_path, ALONE):
        assert not any(path.exists() for path in left) and all(path.exists() for path in kept)


def test_a_complete_run_without_its_checkpoints_is_left_alone(named_store, copy):
    shutil.rmtree(copy / "checkpoints")
    before = (copy / "model" / "model.safetensors").stat().st_mtime_ns
    pretrain(short_run(named_store, copy, steps=2))
    assert (copy / "model" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("gone", [("checkpoints",), ("checkpoints", "model"), ("checkpoints", "run.json")])
def test_what_is_left_of_a_run_is_not_written_over_by_another(named_store, copy, gone):
    for name in gone:
        shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink()
    before = {path: path.read_bytes() for path in copy.rglob("*.*") if path.is_file()}
    with pytest.raises(ConfigError, match="give another folder for the run"):
        pretrain(short_run(named_store, copy, steps=2, lr=0.5))
    kept = {path: path.read_bytes() for path in before if path.exists()}
    assert kept == before


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(named_store, copy):
    shutil.rmtree(copy / "checkpoints")
    shutil.rmtree(copy / "model")
    pretrain(short_run(named_store, copy, steps=2))
    assert (copy / "model" / "config.json").exists()


def test_other_data_are_told_by_name(named_store, copy, tmp_path):
    other = shutil.copytree(named_store, tmp_path / "store")
    lines = (other / "manifest.jsonl").read_text().splitlines()
    first, second = json.loads(lines[0]), json.loads(lines[1])
    (other / "volumes" / f"{first['scan_id']}.b2nd").unlink()
    second["content"] = "another"
    (other / "manifest.jsonl").write_text("\n".join([json.dumps(second), *lines[2:]]) + "\n")
    with pytest.raises(ConfigError) as caught:
        pretrain(short_run(other, copy, steps=2))
    said = str(caught.value)
    assert f"1 scan(s) went ({first['scan_id']})" in said
    assert f"1 scan(s) have other voxels ({second['scan_id']})" in said


def test_another_split_is_told_by_subject(named_store, copy):
    with pytest.raises(ConfigError, match=r"subject\(s\) changed sides \(.* from (train|val) to (train|val)"):
        pretrain(short_run(named_store, copy, steps=2, val_fraction=0.5))


def test_what_changes_no_result_changes_no_identity(named_store, copy):
    free = {"accumulate": 2, "log_every": "1min", "val_every": 1, "max_skipped": 3, "export_every": 1}
    pretrain(short_run(named_store, copy, steps=2, **free))


def test_an_identity_of_an_older_version_is_taken_up_with_the_defaults_of_newer_options():
    now = {"lr": 1e-3, "ema": 0.0, "precision": "32", "settings.p_min": 0.01, "micro_batch": 2}
    older = {"lr": 1e-3, "precision": "auto", "accumulate": 2}
    assert not changes(older, now, {"settings.p_min": 0.01})
    assert changes(older, {**now, "ema": 0.9}, {"settings.p_min": 0.01}) == {"ema": (0.0, 0.9)}
    assert changes(older, now, {"settings.p_min": 0.5}) == {"settings.p_min": (0.5, 0.01)}
    assert changes({**older, "hue": 3}, now, {"settings.p_min": 0.01}) == {"hue": (3, None)}
    assert changes({**older, "precision": "bf16"}, now, {"settings.p_min": 0.01})
    assert changes({**now, "micro_batch": 4}, now, {}) == {"micro_batch": (4, 2)}
    assert not changes({**now, "patch": [16, 16, 16]}, {**now, "patch": (16, 16, 16)}, {})


def test_the_micro_batch_counts_where_samples_are_compared(named_store, tmp_path):
    config = {"steps": 1, "batch": 4, "objective": "simclr", "val_every": 0}
    pretrain(short_run(named_store, tmp_path / "run", **config))
    with pytest.raises(ConfigError, match="micro_batch was 4 and is 2"):
        pretrain(short_run(named_store, tmp_path / "run", accumulate=2, **config))
