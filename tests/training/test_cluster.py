"""Several processes: under torchrun, under SLURM, and started by the command itself."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mdae.objectives import OBJECTIVES
from tests.training.clusters import (
    ONE_STEP,
    assert_same_gradient,
    environment,
    pretrain,
    srun,
    torchrun,
)
from tests.training.golden import read


@pytest.fixture(scope="module")
def alone(named_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step by one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    command = [sys.executable, "-m", "mdae", *pretrain(named_store, out, *ONE_STEP)]
    subprocess.run(command, check=True, env=environment(), capture_output=True)
    return out


def assert_one_run(out: Path, statuses: list[tuple[int, str]]) -> None:
    assert [status for status, _ in statuses] == [0] * len(statuses), statuses
    with (out / "train.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1"], "one run, one row"


@pytest.mark.parametrize(("nodes", "each"), [(2, 2), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_torchrun_makes_the_step_of_one_process(named_store, alone, tmp_path, nodes, each):
    out = tmp_path / "run"
    assert_one_run(out, torchrun(nodes, each, pretrain(named_store, out, *ONE_STEP)))
    assert_same_gradient(alone, out)


@pytest.mark.slow
def test_srun_makes_the_step_of_one_process(named_store, alone, tmp_path):
    out = tmp_path / "run"
    assert_one_run(out, srun(2, pretrain(named_store, out, *ONE_STEP), nodes=2))
    assert_same_gradient(alone, out)


@pytest.mark.slow
def test_devices_of_one_machine_make_the_step_of_one_process(named_store, alone, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "mdae", *pretrain(named_store, out, *ONE_STEP, "--devices", "2")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert_one_run(out, [(done.returncode, done.stderr)])
    assert_same_gradient(alone, out)
    more = pretrain(named_store, out, *ONE_STEP, "--devices", "2", "--lr", "0.5")
    done = subprocess.run([*command[:3], *more], env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "lr was 0.002 and is 0.5" in done.stderr


@pytest.mark.slow
def test_processes_of_different_runs_are_refused_on_all_of_them(named_store, tmp_path):
    commands = [pretrain(named_store, tmp_path / "run", *ONE_STEP, "--lr", lr) for lr in ("0.1", "0.2")]
    for status, said in torchrun(2, 1, *commands):
        assert status != 0
        assert "gloo" not in said.lower()
    assert not (tmp_path / "run" / "train.csv").exists()


@pytest.mark.slow
def test_accumulated_micro_batches_of_two_processes_make_the_step_of_one(named_store, alone, tmp_path):
    out = tmp_path / "run"
    assert_one_run(out, torchrun(1, 2, pretrain(named_store, out, *ONE_STEP, "--accumulate", "2")))
    assert_same_gradient(alone, out)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_is_trained_by_two_processes(named_store, tmp_path, objective):
    """No weight of it is left without a gradient, and none gets one twice, which the exchange would refuse."""
    out = tmp_path / "run"
    options = (
        "--objective",
        objective,
        "--steps",
        "3",
        "--batch",
        "4",
        "--log-every",
        "1",
        "--val-every",
        "3",
    )
    command = [sys.executable, "-m", "mdae", *pretrain(named_store, out, *options, "--devices", "2")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = read(out / "train.csv")
    assert len(rows) == 3 and all(np.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
