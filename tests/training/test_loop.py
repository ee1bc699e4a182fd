"""Training: the golden curve, exact resume, and what stops a run."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.utils._pytree import tree_leaves

from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.sampling import CropDataset, CropSampler, rank_batches
from mdae.data.store import Store
from mdae.errors import ConfigError, ModelError, TrainingError
from mdae.networks.saved import load_model
from mdae.options import AugmentOptions
from mdae.training.checkpoint import newest_readable
from mdae.training.diagnostics import Moment
from mdae.training.launch import launch
from mdae.training.loader import micro_batches
from mdae.training.loop import Trainer, pretrain
from mdae.training.optimiser import MovingAverage, learning_rate
from mdae.training.run import open_run
from mdae.training.step import Learner
from tests.conftest import COARSE, short_run
from tests.data.test_sources import openmind
from tests.training import golden


def weights(model: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(model / "model.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    """Weights and logs equal bit for bit."""
    first, second = weights(one / "model"), weights(other / "model")
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    for log in ("train.csv", "val.csv"):
        assert (one / log).read_text() == (other / log).read_text()


@pytest.fixture(scope="module")
def undisturbed(store, tmp_path_factory) -> Path:
    """A run of twenty steps that nothing interrupted."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    pretrain(short_run(store, out))
    return out


def assert_same_but_rounding(log: Path, other: Path) -> None:
    """Losses equal at first and close to the end: AdamW's first steps blow rounding up."""
    losses, expected = ([row["loss"] for row in golden.read(path)] for path in (log, other))
    assert losses == pytest.approx(expected, rel=2e-2)
    if log.name == "train.csv":  # the first row of the other log comes after ten steps
        assert losses[0] == pytest.approx(expected[0], rel=1e-3)


def command(store: Path, out: Path, *more: str) -> list[str]:
    """The command line of `short_run`."""
    options = {
        "steps": "20", "batch": "2", "val-fraction": "0.2", "val-every": "10", "picture-every": "0",
        "checkpoint-every": "4", "log-every": "2", "lr": "0.001", "precision": "32", "accelerator": "cpu",
    }  # fmt: skip
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    whole = [sys.executable, "-m", "mdae", "pretrain", str(store), str(out), *flags]
    return [*whole, "--patch", "16", "16", "16", *more]


def interrupt(process: subprocess.Popen[bytes], out: Path, number: signal.Signals, checkpoint: int) -> None:
    """Send a signal as soon as a checkpoint is there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "checkpoints" / f"step-{checkpoint:08d}.pt").exists():
            break
        time.sleep(0.002)
    process.send_signal(number)
    process.wait(timeout=60)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


def test_killed_and_started_again_it_ends_as_if_nothing_had_happened(store, undisturbed, tmp_path):
    out = tmp_path / "run"
    for checkpoint in (4, 12):
        process = subprocess.Popen(command(store, out), stderr=subprocess.DEVNULL, env=environment())
        interrupt(process, out, signal.SIGKILL, checkpoint)
        assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    subprocess.run(command(store, out), check=True, stderr=subprocess.DEVNULL, env=environment())
    assert_same_run(undisturbed, out)


def test_terminated_it_writes_a_checkpoint_says_so_and_resumes_exactly(store, undisturbed, tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(
        command(store, out, "--checkpoint-every", "5"), stderr=subprocess.PIPE, env=environment()
    )
    interrupt(process, out, signal.SIGTERM, 5)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    assert process.returncode == 130 and "the same command goes on from there" in said, said
    assert "Traceback" not in said
    pretrain(short_run(store, out))
    assert_same_run(undisturbed, out)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(store, undisturbed, tmp_path):
    out = shutil.copytree(undisturbed, tmp_path / "run")
    newest = out / "checkpoints" / "step-00000020.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    pretrain(short_run(store, out))
    assert_same_run(undisturbed, out)


def test_no_readable_checkpoint_is_one_line(tmp_path):
    (tmp_path / "step-00000004.pt").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="delete the run"):
        newest_readable(tmp_path, device=torch.device("cpu"))
    assert newest_readable(tmp_path / "none", device=torch.device("cpu")) is None
    torch.save({"network_weights": {}}, tmp_path / "step-00000005.pt")
    with pytest.raises(ModelError, match="did not write"):
        newest_readable(tmp_path, device=torch.device("cpu"))


def test_a_checkpoint_of_another_run_is_refused(store, undisturbed):
    with pytest.raises(ConfigError, match=r"lr was 0.001 and is 0.5"):
        pretrain(short_run(store, undisturbed, lr=0.5))


def test_a_finished_run_is_left_alone(store, undisturbed):
    before = (undisturbed / "model" / "model.safetensors").stat().st_mtime_ns
    pretrain(short_run(store, undisturbed))
    assert (undisturbed / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_the_golden_curve(tmp_path):
    """Recapture: `python -m tests.training.golden`."""
    rows, expected = golden.run(tmp_path), golden.read(golden.GOLDEN)
    assert [row.keys() for row in rows] == [row.keys() for row in expected]
    for row, other in zip(rows, expected, strict=True):
        for name in row:  # processors round differently
            rel = 5e-2 if name == "grad_norm" else 1e-4
            assert row[name] == pytest.approx(other[name], rel=rel, nan_ok=True), (row["step"], name)
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_change_nothing(store, undisturbed, tmp_path, workers):
    pretrain(short_run(store, tmp_path / "run", workers=workers))
    assert_same_run(undisturbed, tmp_path / "run")


def test_micro_batches_change_nothing_but_rounding(store, undisturbed, tmp_path):
    pretrain(short_run(store, tmp_path / "run", accumulate=2))
    assert_same_but_rounding(tmp_path / "run" / "train.csv", undisturbed / "train.csv")


def test_recomputed_activations_change_nothing_and_a_run_may_begin_to_recompute(store, undisturbed, tmp_path):
    config = short_run(store, tmp_path / "run", recompute=True)
    assert open_run(config).objective.network.encoder.stem.recompute
    pretrain(config)
    assert_same_run(tmp_path / "run", undisturbed)
    assert "recompute" not in config.fingerprint()


def test_augmented_runs_depend_on_samples_alone(store, undisturbed, tmp_path):
    options = {
        "augment": AugmentOptions(flip=0.5, rotate_deg=20, scale=0.2, gamma=0.2),
        "min_foreground": 0.3,
    }
    for name, changes in (("one", {}), ("workers", {"workers": 2}), ("micro", {"accumulate": 2})):
        pretrain(short_run(store, tmp_path / name, **options, **changes))
    assert_same_run(tmp_path / "one", tmp_path / "workers")
    assert_same_but_rounding(tmp_path / "one" / "train.csv", tmp_path / "micro" / "train.csv")
    plain, ours = (golden.read(run / "train.csv") for run in (undisturbed, tmp_path / "one"))
    assert plain[0]["loss"] != ours[0]["loss"], "the crops are others"


@pytest.mark.slow  # test_cluster.py compares the first step of four of them
def test_two_processes_change_nothing_but_rounding(store, undisturbed, tmp_path):
    out = tmp_path / "run"
    subprocess.run(
        command(store, out, "--devices", "2"),
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for log in ("train.csv", "val.csv"):
        assert_same_but_rounding(out / log, undisturbed / log)


def test_a_signal_to_the_whole_group_ends_with_a_checkpoint_and_one_line(named_store, tmp_path):
    """What scancel and a time limit do: readers and all are told at once."""
    out = tmp_path / "run"
    options = ("--workers", "2", "--steps", "5000", "--val-every", "0", "--checkpoint-every", "10")
    fine = ("--set", "block=4,4,4")  # large blocks are warned of: a line of their own
    process = subprocess.Popen(
        command(named_store, out, *options, *fine),
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list((out / "checkpoints").glob("step-*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)  # torchrun passes on what its workers have already
    said = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 130 and said.count("\n") == 1, said
    step = int(said.split("stopped after step ")[1].split(";")[0])
    assert (out / "checkpoints" / f"step-{step:08d}.pt").exists()
    assert (out / "model" / "config.json").exists()


def test_the_model_of_the_last_checkpoint_is_exported_when_asked(named_store, tmp_path, monkeypatch):
    config = short_run(named_store, tmp_path / "run", steps=6, checkpoint_every=2)
    original = Learner.step

    def cut(self, batches, rate, number):
        if number == 5:
            raise RuntimeError("power cut")
        return original(self, batches, rate, number)

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="power cut"):
        patched.setattr(Learner, "step", cut)
        pretrain(config)
    assert not (tmp_path / "run" / "model").exists()
    pretrain(replace(config, export_now=True))
    assert load_model(tmp_path / "run" / "model").provenance["steps"] == 4
    pretrain(config)
    assert load_model(tmp_path / "run" / "model").provenance["steps"] == 6


def test_what_looks_at_a_run_has_a_table_of_its_own_and_leaves_no_trace(named_store, tmp_path):
    class Norm:
        table = "norm"

        def look(self, moment: Moment) -> dict[str, float]:
            assert [len(batch.samples) for batch, _ in moment.held_out.outputs(moment.held_out.groups)] == [2]
            return {"norm": float(sum(p.norm() for p in moment.learner.trainable))}

    for name, diagnostics in (("plain", ()), ("looked at", (Norm(),))):
        config = short_run(named_store, tmp_path / name, steps=4, val_every=2, ema=0.5)
        trainer = Trainer(open_run(config), launch(config), diagnostics)
        trainer.fit()
    assert_same_run(tmp_path / "plain", tmp_path / "looked at")
    assert [row["step"] for row in golden.read(tmp_path / "looked at" / "norm.csv")] == [2, 4]


@pytest.mark.parametrize("seed", [-1, -7])
def test_a_negative_seed_is_one_line(store, tmp_path, seed):
    with pytest.raises(ConfigError, match=f"seed is {seed}"):
        short_run(store, tmp_path, seed=seed)


def test_every_sample_is_taken_by_one_rank_whatever_their_number():
    for world in (1, 2, 4):
        taken = [
            sample
            for rank in range(world)
            for micro in rank_batches(3, 6, batch=8, micro_batch=2, rank=rank, world=world)
            for sample in micro
        ]
        assert sorted(taken) == list(range(24, 48))


def test_an_epoch_takes_every_subject_once_and_seeds_matter(store):
    opened = Store.open(store)
    sampler = CropSampler(opened.scans, (8, 8, 8), seed=0)
    number = len({scan.subject for scan in opened.scans})
    for epoch in range(3):
        subjects = [sampler(epoch * number + i).scan.subject for i in range(number)]
        assert len(set(subjects)) == number
    again, other = CropSampler(opened.scans, (8, 8, 8), seed=0), CropSampler(opened.scans, (8, 8, 8), seed=1)
    assert [sampler(i) for i in range(30)] == [again(i) for i in reversed(range(30))][::-1]
    assert [sampler(i) for i in range(30)] != [other(i) for i in range(30)]


def poison(monkeypatch: pytest.MonkeyPatch, *bad: int) -> None:
    """Some samples' crops are not finite."""
    original = CropDataset.__getitem__

    def poisoned(self: CropDataset, sample: int) -> tuple[np.ndarray, int, str]:
        crop, number, name = original(self, sample)
        return (crop * np.float16("nan") if sample in bad else crop), number, name

    monkeypatch.setattr(CropDataset, "__getitem__", poisoned)


def test_a_batch_that_is_not_finite_is_skipped_counted_and_told_with_its_scans(
    store, tmp_path, monkeypatch, caplog
):
    poison(monkeypatch, 19)
    pretrain(short_run(store, tmp_path / "run", val_every=0, checkpoint_every=1, ema=0.9))
    with (tmp_path / "run" / "skipped.csv").open() as file:
        (row,) = csv.DictReader(file)
    sampler = CropSampler(_kept(store), (16, 16, 16), seed=0)
    scans = [sampler(sample).scan.scan_id for sample in (18, 19)]
    assert row["step"] == "10" and row["loss"] == "nan" and row["scans"].split() == scans
    assert "step 10 was not finite" in caplog.text and scans[1] in caplog.text
    assert all(np.isfinite(r["loss"]) for r in golden.read(tmp_path / "run" / "train.csv"))
    assert all(value.isfinite().all() for value in weights(tmp_path / "run" / "model").values())


def test_a_skipped_step_moves_nothing_and_the_optimiser_does_not_count_it(store, tmp_path, monkeypatch):
    """The average of the weights, and the steps that correct the moments' bias, among them."""
    poison(monkeypatch, 4)
    states = []
    for steps in (2, 3):
        config = short_run(store, tmp_path / str(steps), steps=3, max_skipped=9, ema=0.9)
        run = open_run(config)
        trainer = Trainer(run, launch(config))
        batches = micro_batches(run, trainer.world, first_step=0, micro_batch=2)
        for number in range(1, steps + 1):
            trainer.learner.step([next(batches)], 1e-3, number)
        states.append(trainer.learner.state())
    for one, other in zip(*(tree_leaves(state) for state in states), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_too_many_in_a_row_stop_the_run_and_name_step_scans_and_checkpoint(store, tmp_path, monkeypatch):
    poison(monkeypatch, 19, 20, 22)
    with pytest.raises(TrainingError) as caught:
        pretrain(short_run(store, tmp_path / "run", val_every=0, max_skipped=3))
    sampler = CropSampler(_kept(store), (16, 16, 16), seed=0)
    said = str(caught.value)
    assert "3 batch(es) in a row" in said and "step 12" in said and "step-00000008.pt" in said
    assert all(sampler(sample).scan.scan_id in said for sample in (22, 23))
    pretrain(short_run(store, tmp_path / "more", val_every=0, max_skipped=4))


def test_a_run_most_of_whose_steps_were_skipped_does_not_end_well(store, tmp_path, monkeypatch):
    """Though never many in a row, and though it was interrupted."""
    poison(monkeypatch, 0, 2, 6, 8, 12)  # steps 1, 2, 4, 5 and 7 of 8
    config = short_run(store, tmp_path / "run", steps=8, val_every=0, log_every=1, checkpoint_every=3)
    original = Learner.step

    def cut(self, batches, rate, number):
        if number == 5:
            raise KeyboardInterrupt
        return original(self, batches, rate, number)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Learner, "step", cut)
        pretrain(config)
    for _ in range(2):  # it is not complete either
        with pytest.raises(TrainingError, match="5 of 8 batches were not finite"):
            pretrain(config)
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_weights_that_are_not_finite_are_neither_kept_nor_exported(store, tmp_path, ema):
    config = short_run(store, tmp_path / "run", steps=1, val_every=0, lr=3e38, ema=ema)
    for _ in range(2):
        with pytest.raises(TrainingError, match="weights are not finite after step 1") as caught:
            pretrain(config)
        assert "lower --lr" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "model").exists()
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*.pt"))


def test_a_loss_that_is_not_finite_is_hidden_by_no_mean(store, tmp_path, monkeypatch):
    """Neither over micro-batches nor over held-out volumes."""
    poison(monkeypatch, 1)
    pretrain(short_run(store, tmp_path / "run", batch=2, accumulate=2, steps=4, val_every=1, log_every=1))
    assert (tmp_path / "run" / "skipped.csv").read_text().count("\n") == 2
    assert all(np.isnan(row["loss"]) for row in golden.read(tmp_path / "run" / "val.csv"))


def _kept(store: Path) -> list:
    from mdae.data.catalogue import split_by_subject

    scans = Store.open(store).scans
    held_out = split_by_subject({scan.subject for scan in scans}, fraction=0.2, seed=0)
    return [scan for scan in scans if scan.subject not in held_out]


def test_nobody_trains_on_held_out_subjects(store):
    run = open_run(short_run(store, Path("unused")))
    assert run.validation is not None
    trained = {run.train(i).scan.subject for i in range(200)}
    held_out = {run.validation(i).scan.subject for i in range(200)}
    assert trained and held_out and not trained & held_out


def test_the_average_is_what_is_saved(store, undisturbed, tmp_path):
    pretrain(short_run(store, tmp_path / "run", ema=0.9))
    assert not torch.equal(
        weights(tmp_path / "run" / "model")["encoder.stem.convs.0.conv.weight"],
        weights(undisturbed / "model")["encoder.stem.convs.0.conv.weight"],
    )
    live = torch.load(tmp_path / "run" / "checkpoints" / "step-00000020.pt", weights_only=True)["objective"]
    assert torch.equal(
        live["network.encoder.stem.convs.0.conv.weight"],
        weights(undisturbed / "model")["encoder.stem.convs.0.conv.weight"],
    )


def test_moving_average():
    value = torch.zeros(1)
    average, moved, skipped = MovingAverage([value], decay=0.5), torch.tensor(0.0), torch.tensor(1.0)
    for step in range(1, 40):
        value += 1.0
        average.update(step, moved)
        average.update(step, skipped)
    assert average.average[0].item() == pytest.approx(38.0, abs=1e-3)  # of a ramp: one step behind
    average.swap()
    assert value.item() == pytest.approx(38.0, abs=1e-3)
    average.swap()
    assert value.item() == 39.0


def test_learning_rate():
    rates = [learning_rate(s, peak=2.0, warmup_steps=4, total_steps=20) for s in range(21)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0] and rates[4] == 2.0
    assert rates[20] == pytest.approx(0.0) and all(a >= b for a, b in zip(rates[4:], rates[5:], strict=False))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": 3, "accumulate": 2}, "use --batch 4"),
        ({"patch": (15, 16, 16)}, "multiple of 8"),
        ({"network": "huge"}, "no network preset"),
        ({"objective": "magic"}, "no objective"),
        ({"lr": 1e39}, "float32 must hold them"),
        ({"lr": float("nan")}, "clip must be above 0, lr"),
        ({"extend": (1,), "extend_lr": (1e39,)}, "extend_lr is"),
    ],
)
def test_what_cannot_be_carried_out_is_one_line(store, tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        pretrain(short_run(store, tmp_path / "run", **changes))


def test_defaced_voxels_train_nobody(tmp_path):
    """A store with unknown voxels trains, and nothing of them reaches loss, gradient or picture."""
    source = openmind(tmp_path / "openmind")
    prepare(PrepareConfig(source=source, store=tmp_path / "store", preprocessing=COARSE, workers=1))
    config = short_run(tmp_path / "store", tmp_path / "run", steps=4, val_fraction=0.0)
    pretrain(config)
    rows = golden.read(tmp_path / "run" / "train.csv")
    assert len(rows) == 2 and all(np.isfinite(row["loss"]) and np.isfinite(row["grad_norm"]) for row in rows)
    assert all(value.isfinite().all() for value in weights(tmp_path / "run" / "model").values())
