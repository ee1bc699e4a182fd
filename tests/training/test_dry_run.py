"""What a run will take, from a few of its steps."""

from __future__ import annotations

import pytest

from mdae.cli import main
from mdae.training import dry_run as module
from mdae.training.dry_run import Forecast, dry_run
from tests.conftest import short_run


def test_it_measures_says_and_writes_nothing(named_store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "TIMED", 2)
    out = tmp_path / "run"
    main(
        [
            *("pretrain", str(named_store), str(out), "--dry-run", "--steps", "3", "--batch", "2"),
            *("--patch", "16", "16", "16", "--accelerator", "cpu"),
        ]
    )
    said = capsys.readouterr().out
    assert (
        "s a step of batch 2" in said and "peak memory" in said and "largest micro-batch that fits: " in said
    )
    assert "W a device (assumed)" in said
    assert "this run: 3 steps of batch 2" in said and "500000 steps of batch 48" in said
    assert not out.exists()


def test_the_first_step_alone_counts_where_it_takes_long(named_store, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ENOUGH_S", 0.0)
    (line, *_) = dry_run(short_run(named_store, tmp_path / "run"))
    assert "0 s a step" not in line and "s a step of batch 2" in line


def test_hours_and_energy_follow_from_the_step(named_store, tmp_path):
    config = short_run(named_store, tmp_path / "run", batch=4, steps=1800, extend=(1800,))
    found = Forecast(
        config=config, device="H200", devices=2, micro_batch=1, step_s=2.0, waiting_s=0.0, peak_bytes=1e9, largest=8,
        counted=False, power_w=500.0, measured=True,
    )  # fmt: skip
    assert found.hours(3600, 4) == pytest.approx(2.0) and found.kwh(3600, 4) == pytest.approx(2.0)
    assert found.hours(3600, 8) == pytest.approx(4.0)
    lines = found.lines()
    assert "2 x H200" in lines[0] and "2 micro-batch(es) of 1" in lines[0]
    assert "this run: 3600 steps of batch 4: 2 h, 2 kWh" in lines
    assert "power 500 W a device (measured), the rest of the machine not counted" in lines
