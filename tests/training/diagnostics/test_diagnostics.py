"""Diagnostics of features: what they say of collapsed and of healthy ones, and that they leave no trace in a run."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from mdae.errors import ConfigError
from mdae.training.diagnostics.deviation import deviation
from mdae.training.diagnostics.features import Looker
from mdae.training.diagnostics.rank import Rank, effective_rank
from mdae.training.diagnostics.rising import Rising
from mdae.training.diagnostics.standard import without_labels
from mdae.training.loop import pretrain
from tests.conftest import short_run
from tests.training.test_log import interrupted_at
from tests.training.test_loop import Learner, assert_same_run

RNG = np.random.default_rng(0)


def test_the_rank_is_the_number_of_directions():
    noise = RNG.normal(size=(400, 8))
    assert effective_rank(noise) == pytest.approx(8, rel=0.02)
    line = RNG.normal(size=(400, 1)) * RNG.normal(size=(1, 8)) + 5.0
    assert effective_rank(line) == pytest.approx(1.0, abs=1e-6)
    assert effective_rank(np.full((400, 8), 3.0)) == 0.0
    assert np.isnan(effective_rank(np.full((400, 8), np.nan)))
    assert effective_rank(100 + noise) == pytest.approx(effective_rank(noise)), (
        "what all share counts for nothing"
    )


def test_the_deviation_is_a_share_of_the_size():
    noise = RNG.normal(size=(1000, 4))
    assert deviation(noise) == pytest.approx(1.0, abs=0.01)
    assert deviation(100 + noise) == pytest.approx(0.01, abs=1e-3)
    assert deviation(np.zeros((10, 4))) == 0.0


def test_a_figure_that_has_stopped_rising_counts_looks(tmp_path):
    rising = Rising("auroc")
    values = [0.6, 0.7, 0.705, 0.69, 0.71]
    assert [rising.add(step, v, v - 0.1, v + 0.1) for step, v in enumerate(values)] == [0, 0, 1, 2, 3]
    table = tmp_path / "probe.csv"
    rows = "".join(f"{step},{v},{v - 0.1},{v + 0.1}\r\n" for step, v in enumerate(values))
    table.write_text(f"step,auroc,low,high\r\n{rows}")
    again = Rising("auroc")
    again.take_up(table, 3)
    assert (again.best, again.best_step, again.since) == (0.7, 1, 1)


def test_they_are_tables_that_resume_and_leave_no_trace(named_store, tmp_path, monkeypatch):
    options = {"steps": 6, "val_every": 2, "checkpoint_every": 3}
    pretrain(short_run(named_store, tmp_path / "plain", **options), lambda run: [])
    pretrain(short_run(named_store, tmp_path / "watched", **options))
    assert_same_run(tmp_path / "plain", tmp_path / "watched")
    with monkeypatch.context() as patched:
        patched.setattr(Learner, "step", interrupted_at(5))
        with pytest.raises(RuntimeError, match="power cut"):
            pretrain(short_run(named_store, tmp_path / "cut", **options))
    pretrain(short_run(named_store, tmp_path / "cut", **options))
    for name in ("rank.csv", "deviation.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "watched" / name).read_bytes()
        with (tmp_path / "cut" / name).open() as file:
            assert [row["step"] for row in csv.DictReader(file)] == ["2", "4", "6"]
    assert not (tmp_path / "plain" / "rank.csv").exists()


def test_a_collapse_is_said_once(caplog):
    class Flat(Looker):
        def look(self, moment):
            from mdae.training.diagnostics.features import CropFeatures

            return CropFeatures([np.ones((64, 8))], np.ones((100, 8)))

    class Moment:
        step = 7

    rank = Rank(Flat())
    for _ in range(2):
        assert rank.look(Moment())["crops"] == 0.0
    assert caplog.text.count("features have collapsed") == 1


def test_each_has_a_table_of_its_own():
    tables = [each.table for each in without_labels()]
    assert tables == ["rank", "deviation"]


def test_training_alone_has_no_probe(named_store, tmp_path):
    with pytest.raises(ConfigError, match=r"online\.watching"):
        pretrain(short_run(named_store, tmp_path / "run", probe=tmp_path / "labels.csv", label="diagnosis"))
