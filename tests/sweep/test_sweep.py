"""Sweeps: killed and started again they end with the same table, no config is run twice; means know spread."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mdae.cli import main
from mdae.errors import ConfigError, DataError, TrainingError
from mdae.evaluation.results.paired import SubjectDraws, average
from mdae.evaluation.results.reader import Cell
from mdae.evaluation.statistics.intervals import Estimate, furthest_from_perfect
from mdae.seeding import numpy_generator
from mdae.sweep.config import SweepConfig
from mdae.sweep.figures import landscape_figure
from mdae.sweep.spec import read_spec
from mdae.sweep.summary import Row, adjusted, summarise
from mdae.sweep.work import DONE, FAILED, _pretrain, shares_of_devices, sweep, work
from mdae.tasks.record import LabelRule, Task
from mdae.training.loop import pretrain
from tests.evaluation.nnunet import made

BASE = """
base:
  store: {store}
  network: tiny
  steps: {steps}
  batch: 2
  patch: [16, 16, 16]
  block: [8, 8, 8]
  checkpoint_every: 1
  picture_every: 0
  val_every: 0
  accelerator: cpu
"""
TASKS = """
tasks:
  - task: lesions.yaml
    data: {cohort}
    folds: 2
    repeats: 1
    window: centre
"""


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Runs are made in this process, which takes no seconds to start; workers and jobs of their own make them apart."""
    monkeypatch.setattr("mdae.sweep.work._run_apart", lambda config, name: pretrain(config))


@pytest.fixture
def spec(tmp_path, store, cohort) -> Callable[..., Path]:
    """Write a specification; two objectives and two seeds if nothing else is asked for."""

    def write(
        ends: str = "axes: {objective: [mdae, mae]}\nseeds: [0, 1]\n", *, steps: int = 2, tasks: bool = True
    ) -> Path:
        (tmp_path / "lesions.yaml").write_text(
            "name: lesions\ntitle: lesions\nlayout: bids\ncontrasts: [T1w]\nlabel: {column: lesion, positive: 1}\n"
        )
        text = BASE.format(store=store, steps=steps) + (TASKS.format(cohort=cohort) if tasks else "")
        path = tmp_path / "spec.yaml"
        path.write_text(text + ends)
        return path

    return write


def test_every_run_ends_in_the_table(spec, tmp_path, capsys):
    path, out = spec(), tmp_path / "out"
    main(["sweep", str(path), str(out)])
    assert "index.html" in capsys.readouterr().out
    runs = pd.read_csv(out / "runs.csv")
    assert sorted(zip(runs["objective"], runs["seed"], strict=True)) == [
        *[("mae", 0), ("mae", 1)],
        *[("mdae", 0), ("mdae", 1)],
    ]
    summary = pd.read_csv(out / "summary.csv").set_index("objective")
    for name in ("mdae", "mae"):
        mean = runs.loc[runs["objective"] == name, "auroc"].mean()
        assert summary.loc[name, "value"] == pytest.approx(mean)
        assert summary.loc[name, "low"] <= mean <= summary.loc[name, "high"]
    assert np.isnan(summary.loc["mdae", "p"]) and 0 <= summary.loc["mae", "p"] <= 1
    assert summary.loc["mae", "difference"] == pytest.approx(
        summary.loc["mae", "value"] - summary.loc["mdae", "value"]
    )
    assert not list((out / "runs").glob("*/run/checkpoints")), "models stay, checkpoints do not"


def test_a_task_by_either_word_for_its_contrasts_is_one_trial(spec):
    trials = []
    for key in ("contrasts", "modalities"):
        path = spec("seeds: [0]\n")
        path.write_text(path.read_text().replace("- task:", f"- {key}: T1w\n    task:", 1))
        (run,) = read_spec(path).runs()
        trials.append(run.evaluations(Path()))
    assert trials[0] == trials[1] and next(iter(trials[0].values())).contrasts == ("T1w",)


def test_a_task_that_is_added_later_is_judged_on_the_models_there_are(spec, tmp_path):
    out = tmp_path / "out"
    sweep(SweepConfig(spec=spec("seeds: [0, 1]\n", tasks=False), out=out))
    models = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/run/model/*")}
    path = spec("seeds: [0, 1]\n")
    with pytest.raises(DataError, match="no run has ended"):
        sweep(SweepConfig(spec=path, out=out, table=True))
    sweep(SweepConfig(spec=path, out=out))
    assert models == {path: path.stat().st_mtime_ns for path in out.glob("runs/*/run/model/*")}
    assert len(pd.read_csv(out / "runs.csv")["auroc"].dropna()) == 2


def test_sweeps_that_share_runs_make_none_twice_and_have_tables_of_their_own(spec, tmp_path):
    runs = tmp_path / "runs"
    sweep(SweepConfig(spec=spec("variants: {a: {}, b: {p_max: 0.5}}\n"), out=tmp_path / "one", runs=runs))
    path = spec("variants: {b: {p_max: 0.5}, a: {}}\n")
    assert work(path, runs) == 0
    sweep(SweepConfig(spec=path, out=tmp_path / "other", runs=runs))
    differences = [
        pd.read_csv(tmp_path / name / "summary.csv").set_index("variant")["difference"]
        for name in ("one", "other")
    ]
    assert differences[0]["b"] == -differences[1]["a"]


def test_killed_and_started_again_it_ends_with_the_same_table(spec, tmp_path):
    path = spec("axes: {objective: [mdae, mae]}\nseeds: [0]\n", steps=20)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    sweep(SweepConfig(spec=path, out=whole))
    command = [sys.executable, "-m", "mdae", "sweep", str(path), str(killed)]
    threads = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }  # other threads, other round-off
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=threads)
    deadline = time.monotonic() + 120
    while not list((killed / "runs").glob("*/run/checkpoints/step-*.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list((killed / "runs").glob(f"*/{DONE}"))) < 2, "it was killed in the middle"
    sweep(SweepConfig(spec=path, out=killed))
    same = ["variant", "seed", "run", "modality", "auroc", "brier"]
    one, other = (pd.read_csv(out / "runs.csv")[same] for out in (whole, killed))
    pd.testing.assert_frame_equal(one, other)
    assert (whole / "summary.csv").read_text() == (killed / "summary.csv").read_text()


def test_two_workers_never_take_one_config(spec, tmp_path):
    path, out = spec("seeds: [0, 1]\n", tasks=False), tmp_path / "out"
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        finished = pool.starmap(work, [(path, out / "runs", 1), (path, out / "runs", 1)])
    assert sum(finished) == 2
    assert len(list((out / "runs").glob(f"*/{DONE}"))) == 2


def test_a_run_that_somebody_works_on_is_left_to_him(spec, tmp_path):
    path, out = spec("seeds: [0, 1]\n", tasks=False), tmp_path / "out"
    first = out / "runs" / read_spec(path).runs()[0].key
    first.mkdir(parents=True)
    with (first / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert work(path, out / "runs") == 1
        assert not (first / DONE).exists()
    assert work(path, out / "runs") == 1 and (first / DONE).exists()
    assert work(path, out / "runs") == 0


def test_the_same_config_written_otherwise_is_the_same_run(spec, tmp_path):
    path = spec("variants: {a: {}, b: {objective: mdae}, c: {p_max: 0.99, p_min: 0.01}, d: {p_max: 0.5}}\n")
    keys = {run.variant: run.key for run in read_spec(path).runs()}
    assert keys["a"] == keys["b"] == keys["c"] != keys["d"]
    out = tmp_path / "out"
    assert work(path, out / "runs") == 2, "two runs for four variants"
    sweep(SweepConfig(spec=path, out=out, table=True))
    assert len(pd.read_csv(out / "summary.csv")) == 4


def test_options_of_every_kind_reach_the_run(spec, tmp_path):
    path = spec("variants: {a: {augment.flip: 0.5, contrasts: [T1w], sigma_max: 2, lr: 0.01}}\n")
    (run,) = read_spec(path).runs()
    config = run.pretraining(tmp_path)
    assert (config.augment.flip, config.contrasts, config.lr) == (0.5, ("T1w",), 0.01)
    assert set(config.settings) == {"block=8,8,8", "sigma_max=2"}


def test_a_run_that_fails_is_noted_and_the_others_go_on(spec, tmp_path):
    path, out = spec("variants: {sound: {}, wild: {lr: 1.0e+30}}\n", steps=6), tmp_path / "out"
    sweep(SweepConfig(spec=path, out=out))
    (failed,) = (out / "runs").glob(f"*/{FAILED}")
    assert "diverged" in json.loads(failed.read_text())["error"]
    runs = pd.read_csv(out / "runs.csv").set_index("variant")
    assert "diverged" in runs.loc["wild", "error"] and runs.loc["sound", "auroc"] >= 0
    assert "diverged" in (out / "index.html").read_text()
    failed.unlink()
    sweep(SweepConfig(spec=path, out=out, retry=True))
    assert failed.exists(), "it is tried again, and fails again"


def test_a_landscape_is_a_picture_with_its_uncertainty(spec, tmp_path):
    path = spec("axes: {p_max: [0.25, 0.75], sigma_max: [0.5, 5]}\nseeds: [0, 1]\n", steps=1)
    page = sweep(SweepConfig(spec=path, out=tmp_path / "out")).read_text()
    assert "half the interval" in page and "image/png" in page
    assert set(pd.read_csv(tmp_path / "out" / "summary.csv")["sigma_max"]) == {0.5, 5.0}


@pytest.mark.slow  # each job and each of their runs is a process of its own
def test_workers_as_jobs(spec, tmp_path):
    path, out = spec("seeds: [0, 1]\n", tasks=False, steps=1), tmp_path / "out"
    options = {"timeout_min": "5"}
    sweep(SweepConfig(spec=path, out=out, workers=2, cluster="local", cluster_options=options))
    assert len(list((out / "runs").glob(f"*/{DONE}"))) == 2


def test_runs_that_differ_in_blocks_of_small_crops_are_two_and_those_that_do_not_are_one(spec):
    """What is left out is the finer blocks and the network's own rate there, and not what is published."""
    path = spec(
        "variants: {plain: {}, spelled: {block: [2, 2, 2], lr: 0.002}, published: {block: [16, 16, 16]}}\n",
        tasks=False,
    )
    path.write_text(path.read_text().replace("  block: [8, 8, 8]\n", ""))
    keys = {run.variant: run.key for run in read_spec(path).runs()}
    assert keys["plain"] == keys["spelled"] != keys["published"]


def test_jobs_whose_specification_is_named_otherwise_end_in_its_table(spec, tmp_path, monkeypatch):
    path = spec("seeds: [0]\n", steps=1)
    path.write_text(path.read_text().replace("tasks:\n  - task", "tasks:\n  - pool: max\n    task"))
    monkeypatch.chdir(tmp_path)
    assert read_spec(Path("spec.yaml")).trials.keys() == read_spec(path.resolve()).trials.keys()
    assert work(path.resolve(), tmp_path / "out" / "runs") == 1
    assert sweep(SweepConfig(spec=Path("spec.yaml"), out=Path("out"), table=True)).exists()


def test_tasks_may_pool_otherwise(spec, tmp_path):
    path = spec("seeds: [0]\n", steps=1)
    (tmp_path / "other.yaml").write_text(
        (tmp_path / "lesions.yaml").read_text().replace("name: les", "name: oth")
    )
    task = "  - {task: other.yaml, data: DATA, folds: 2, repeats: 1, window: centre, pool: max}\nseeds"
    data = path.read_text().split("data: ")[1].splitlines()[0]
    path.write_text(path.read_text().replace("seeds", task.replace("DATA", data)))
    sweep(SweepConfig(spec=path, out=tmp_path / "out"))
    assert set(pd.read_csv(tmp_path / "out" / "runs.csv").task) == {"lesions", "othions"}


def test_a_task_that_fails_leaves_the_run_to_the_others(spec, tmp_path, monkeypatch):
    path, out = spec("seeds: [0]\n", steps=1), tmp_path / "out"
    sweep(SweepConfig(spec=path, out=out))
    path.write_text(path.read_text().replace("repeats: 1", "repeats: 2"))

    def diverge(config):
        raise TrainingError("the loss is inf", mend="lower lr")

    monkeypatch.setattr("mdae.evaluation.evaluate.evaluate", diverge)
    page = sweep(SweepConfig(spec=path, out=out))
    assert "the loss is inf" in page.read_text()
    assert "the loss is inf" in pd.read_csv(out / "runs.csv").error[0]
    assert work(path, out / "runs") == 0, "it is over"
    monkeypatch.undo()
    sweep(SweepConfig(spec=spec("seeds: [0]\n", steps=1), out=out, table=True))
    runs = pd.read_csv(out / "runs.csv")
    assert runs.auroc[0] >= 0 and runs.error.isna().all(), "a sweep without that task knows nothing of it"
    path.write_text(path.read_text().replace("repeats: 1", "repeats: 2"))
    sweep(SweepConfig(spec=path, out=out, retry=True))
    assert pd.read_csv(out / "runs.csv").auroc[0] >= 0


def test_of_two_subjects_there_are_means_without_intervals(spec, tmp_path):
    data = made.dataset(tmp_path, 2)
    tasks = f"tasks: [{{task: {data}, protocol: voxels, folds: 2}}]\n"
    sweep(SweepConfig(spec=spec(tasks, steps=1, tasks=False), out=tmp_path / "out"))
    runs = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert runs.dice.between(0, 1).all() and runs.refused.str.contains("2 subjects").all()
    assert not (tmp_path / "out" / "summary.csv").exists()


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("protocol: Linear", "protocol is 'Linear'"),
        ("window: center", "window is 'center'"),
        ("pool: avg", "pool is 'avg'"),
        ("split: nowhere.csv", "no such file"),
    ],
)
def test_a_task_that_cannot_be_done_is_said_before_anything_is_run(spec, tmp_path, task, said):
    path = spec("seeds: [0]\n")
    path.write_text(path.read_text().replace("window: centre", task))
    with pytest.raises(ConfigError, match=said):
        sweep(SweepConfig(spec=path, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("axes: {network: [tiny, tyni]}\n", "no network preset 'tyni'"),
        ("axes: {patch: [[16, 16, 16], [16, 16, 20]]}\n", "a volume of"),
        ("axes: {precision: [bf61]}\n", "precision is 'bf61'"),
        ("axes: {objective: [mdae, nothing]}\n", "no objective 'nothing'"),
        ("axes: {sigma_maxx: [1]}\n", "sigma_maxx"),
        ("axes: {steps: [0]}\n", "steps is 0"),
        ("axes: {augment.flip: [2]}\n", "flip 2"),
        ("axes: {augment.flop: [1]}\n", "flop"),
        ("axes: {seed: [0]}\n", "seed is no option of a variant"),
        ("baseline: other\n", "no variant 'other'"),
        ("more: 1\n", "it has more"),
        ("axes: 3\n", "not a sweep"),
        ("variants: [\n", "not a sweep's file"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_run(spec, ends, said):
    with pytest.raises(ConfigError, match=said) as caught:
        read_spec(spec(ends))
    assert "\n" not in str(caught.value)


def test_no_table_of_nothing(spec, tmp_path):
    with pytest.raises(DataError, match="no run has ended"):
        sweep(SweepConfig(spec=spec(), out=tmp_path / "out", table=True))


# -- means and their spread ---------------------------------------------------------------------------------------

LESIONS = Task(
    name="t", title="t", layout="table", contrasts=("T1w",), label=LabelRule(column="x", positive=("1",))
)


def cell(name: str, labels: np.ndarray, scores: np.ndarray) -> Cell:
    return Cell(
        path=Path(name),
        encoder=name,
        fingerprint=name,
        task=LESIONS,
        protocol="linear",
        contrast="T1w",
        scenario="s",
        selection="",
        scores={},
        subjects=np.array([f"{i:03d}" for i in range(len(labels))]),
        people=np.array([f"{i:03d}" for i in range(len(labels))]),
        labels=labels,
        predictions=scores,
        probabilities=np.full(len(labels), 0.5),
    )


def simulated(
    number: int, effects: dict[str, float], *, seeds: int = 5, subjects: int = 60, wobble: float = 0.3
) -> dict[str, dict[int, Cell]]:
    """Variants whose seeds differ by chance, all on the same subjects, some of whom are hard for all."""
    rng = numpy_generator(number, "sweep")
    labels = np.arange(subjects) % 2 * 1.0
    hard = rng.standard_normal(subjects)

    def scores(effect: float) -> np.ndarray:
        strength = effect + wobble * rng.standard_normal()
        return strength * labels + hard + 0.5 * rng.standard_normal(subjects)

    return {
        name: {seed: cell(f"{name}{seed}", labels, scores(effect)) for seed in range(seeds)}
        for name, effect in effects.items()
    }


def rows_of(cells: dict[str, dict[int, Cell]], number: int) -> list[Row]:
    draws = SubjectDraws((one for own in cells.values() for one in own.values()), seed=number, replicates=300)
    return adjusted(summarise(cells, "a", "auroc", draws))


def test_equal_variants_are_rarely_told_apart():
    found = [rows_of(simulated(n, {"a": 1.0, "b": 1.0}), n)[1].p for n in range(120)]
    assert np.mean(np.array(found) < 0.05) <= 0.10, "5 % nominally"


def test_a_real_difference_is_found_and_its_interval_holds():
    rows = [rows_of(simulated(n, {"a": 0.5, "b": 2.0}), n)[1] for n in range(30)]
    assert np.mean([row.p_holm < 0.05 for row in rows]) > 0.9
    assert all(row.difference.low < row.difference.value < row.difference.high for row in rows)


def test_seeds_that_differ_widen_the_interval():
    calm = rows_of(simulated(1, {"a": 1.0}, wobble=0.0), 1)[0]
    wild = rows_of(simulated(1, {"a": 1.0}, wobble=1.5), 1)[0]
    assert wild.seed_sd > 2 * calm.seed_sd
    assert wild.estimate.high - wild.estimate.low > calm.estimate.high - calm.estimate.low


def test_a_rare_class_is_as_uncertain_here_as_on_the_leaderboard():
    """Five perfect positives of 100: the sweep took them for fifty, [.929, 1] where [.478, 1] is true."""
    labels = (np.arange(100) < 5).astype(float)
    perfect = cell("p", labels, labels + np.arange(100) / 1000)
    draws = SubjectDraws([perfect])
    (row,) = summarise({"a": {0: perfect}}, "a", "auroc", draws)
    assert row.estimate == average([perfect], "auroc", draws)
    assert row.estimate.low == pytest.approx(1 - furthest_from_perfect(5)) and row.estimate.low < 0.55
    hard = cell("h", labels, numpy_generator(0, "rare").standard_normal(100) + 1.5 * labels)
    draws = SubjectDraws([hard])
    (row,) = summarise({"a": {0: hard}}, "a", "auroc", draws)
    assert row.estimate == average([hard], "auroc", draws)


def test_a_seed_that_failed_leaves_the_others_paired():
    cells = simulated(1, {"a": 1.0, "b": 1.0}, wobble=1.0)
    cells["b"] = {seed: cells["a"][seed] for seed in (1, 2, 4)}  # the same runs, of which some failed
    same = rows_of(cells, 1)[1]
    assert same.difference.value == 0 and same.num_seeds == 3
    cells["b"] = {9: cells["b"][1]}
    assert rows_of(cells, 1)[1].difference is None, "no seed in common"


def test_a_landscape_of_errors_outlines_the_lowest():
    variants = {f"{x}{y}": {"x": x, "y": y} for x in (0, 1) for y in (0, 1)}
    rows = [
        Row(
            variant=name,
            task="age",
            contrast="T1w",
            protocol="linear",
            metric="mae",
            num_seeds=2,
            num_subjects=9,
            estimate=Estimate(value, value - 0.1, value + 0.1),
            seed_sd=0.1,
        )
        for name, value in zip(variants, (5.0, 1.0, 4.0, 3.0), strict=True)
    ]
    figure = landscape_figure(rows, variants, ("x", "y"))
    (outlined,) = [patch for patch in figure.axes[0].patches if patch.get_linewidth() == 1.6]
    assert outlined.get_xy() == pytest.approx((-0.47, 0.53))


@pytest.mark.parametrize(
    ("gpus", "each", "workers", "shares"),
    [
        ([], 1, 0, [None]),
        ([], 1, 3, [None, None, None]),
        (["0", "1", "2"], 1, 0, ["0", "1", "2"]),
        (["GPU-a", "GPU-b"], 1, 1, ["GPU-a"]),
        (["0", "1", "2", "3"], 2, 0, ["0,1", "2,3"]),
        (["0", "1"], 1, 3, ["0", "1", "0"]),
        (["0"], 2, 0, ["0"]),
    ],
)
def test_each_run_at_a_time_has_devices_of_its_own(gpus, each, workers, shares):
    assert shares_of_devices(gpus, each, workers) == shares


def test_a_run_is_a_process_of_its_own_that_is_given_its_devices(spec, tmp_path, monkeypatch):
    """Whatever started the sweep: a job of several tasks has none of its variables in a run."""
    started = []
    monkeypatch.undo()
    monkeypatch.setattr("mdae.sweep.work.Child", lambda *about: started.append(about))
    monkeypatch.setattr("mdae.sweep.work.run_children", lambda children: None)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("CUDA_VISIBLE_DEVICES", "3")):
        monkeypatch.setenv(name, value)
    run = read_spec(spec(tasks=False)).runs()[0]
    run = replace(run, options={**run.options, "accelerator": "auto"})
    _pretrain(run, tmp_path / "folder")
    ((command, environ, name),) = started
    assert command[1:4] == ["-m", "mdae", "pretrain"] and run.key in name
    assert command[command.index("--devices") + 1] == "1"
    assert environ["CUDA_VISIBLE_DEVICES"] == "3" and "RANK" not in environ and "WORLD_SIZE" not in environ
