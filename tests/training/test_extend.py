"""Runs that go on longer, and runs that begin with weights of elsewhere."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from mdae.errors import ConfigError
from mdae.networks.saved import load_model
from mdae.training.loop import pretrain
from mdae.training.run import open_run
from tests.conftest import short_run
from tests.training.test_log import interrupted_at
from tests.training.test_loop import Learner, assert_same_run

HELD = {"schedule": "wsd", "decay": 0.25, "steps": 8}


def steps_of(table: Path) -> list[int]:
    with table.open() as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_a_held_run_that_is_extended_is_the_run_that_was_planned_longer(named_store, tmp_path):
    short, whole = tmp_path / "short", tmp_path / "whole"
    pretrain(short_run(named_store, short, **HELD))
    assert steps_of(short / "train.csv") == [2, 4, 6, 8]
    pretrain(short_run(named_store, short, **HELD, extend=(8,)))
    pretrain(short_run(named_store, whole, **HELD, extend=(8,)))
    assert_same_run(short, whole)
    assert load_model(short / "model").provenance["steps"] == 16
    before = (short / "model" / "config.json").stat().st_mtime_ns
    pretrain(short_run(named_store, short, **HELD, extend=(8,)))  # nothing to do
    assert (short / "model" / "config.json").stat().st_mtime_ns == before


def test_a_cosine_is_extended_from_its_end_with_another_rate_and_resumes_exactly(
    named_store, tmp_path, monkeypatch
):
    longer = {"steps": 8, "extend": (4, 4), "extend_lr": (1e-4, 2e-4), "val_every": 4}
    pretrain(short_run(named_store, tmp_path / "whole", **longer))
    out = tmp_path / "run"
    pretrain(short_run(named_store, out, steps=8, val_every=4))
    pretrain(short_run(named_store, out, **{**longer, "extend": (4,), "extend_lr": (1e-4,)}))
    with monkeypatch.context() as patched:
        patched.setattr(Learner, "step", interrupted_at(15))
        with pytest.raises(RuntimeError, match="power cut"):
            pretrain(short_run(named_store, out, **longer))
    pretrain(short_run(named_store, out, **longer))
    assert_same_run(tmp_path / "whole", out)
    with (out / "train.csv").open() as file:
        rates = {int(row["step"]): float(row["lr"]) for row in csv.DictReader(file)}
    assert rates[10] > 0 and max(rates[10], rates[12]) <= 1e-4 < max(rates[14], rates[16]) <= 2e-4


def test_an_extended_run_is_not_cut_short_by_its_first_command(named_store, tmp_path):
    for name, options in (("cosine", {"steps": 4}), ("held", {**HELD, "steps": 4})):
        out = tmp_path / name
        pretrain(short_run(named_store, out, **options, extend=(4,)))
        for changes in ({}, {"extend": (3,)}, {"extend": (4,), "extend_lr": (0.5,)}):
            if name == "held" and "extend_lr" in changes:
                continue
            with pytest.raises(ConfigError, match="repeat what was given before"):
                pretrain(short_run(named_store, out, **options, **changes))
        assert load_model(out / "model").provenance["steps"] == 8


def test_a_run_that_begins_with_a_model_says_so_and_keeps_where_it_came_from(
    named_store, model, tmp_path, caplog
):
    config = short_run(named_store, tmp_path / "run", steps=4, init=str(model))
    begun = open_run(config).objective.network.state_dict()
    for name, value in safetensors.torch.load_file(model / "model.safetensors").items():
        assert torch.equal(begun[name], value), name
    pretrain(config)
    assert "begins with" in caplog.text and "weights of the encoder" in caplog.text
    about = load_model(tmp_path / "run" / "model").provenance["init"]
    source = load_model(model).provenance
    assert about["kind"] == "mdae" and about["taken"]["encoder"] > 10 and about["steps"] == 4
    seen = load_model(tmp_path / "run" / "model").provenance["scans"]
    assert seen["also"] == source["scans"], "what it has seen before is not forgotten"
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["init"].startswith(about["sha256"][:16])
    pretrain(config)  # complete
    with pytest.raises(ConfigError, match=r"init was .* and is ''"):
        pretrain(short_run(named_store, tmp_path / "run", steps=4))
