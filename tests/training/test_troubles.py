"""What a machine does to a run is one line each."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

from mdae.data.sampling import CropDataset
from mdae.errors import ConfigError, DataError, MDAEError, PartnerError
from mdae.training.loop import pretrain
from mdae.training.step import Learner
from mdae.training.troubles import explain
from tests.conftest import short_run


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            ConfigError,
            "--accumulate 2",
        ),
        (RuntimeError("CUDA error: out of memory"), ConfigError, "--accumulate 2"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            ConfigError,
            "--accumulate",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), PartnerError, "--workers"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), PartnerError, "--workers"),
        (RuntimeError("Pin memory thread exited unexpectedly"), PartnerError, "--workers"),
        (
            RuntimeError(
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers "
                "are out of shared memory. Please try to raise your shared memory limit."
            ),
            DataError,
            "--shm-size",
        ),
        (
            RuntimeError("unable to write to file </torch_7_1_0>: No space left on device (28)"),
            DataError,
            "shm",
        ),
        (
            RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:7"),
            PartnerError,
            "another process",
        ),
    ],
)
def test_what_torch_says_is_told_with_a_mend(store, tmp_path, error, kind, said):
    found = explain(error, short_run(store, tmp_path))
    assert type(found) is kind and said in str(found) and "\n" not in str(found)


def test_what_nobody_knows_stays_as_it_is(store, tmp_path, monkeypatch):
    assert explain(RuntimeError("a bug"), short_run(store, tmp_path)) is None

    def broken(self, batches, rate, number):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Learner, "step", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        pretrain(short_run(store, tmp_path / "run"))


def in_a_worker(act):
    """A data set that does something where it is read."""

    def read(self: CropDataset, sample: int) -> tuple[np.ndarray, int, str]:
        act()
        raise AssertionError

    return read


def fail() -> None:
    raise DataError("a volume that cannot be read", where="volumes/sub-1.b2nd", mend="delete it")


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "a loader process was killed"),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), "/dev/shm"),
        (fail, "volumes/sub-1.b2nd: a volume that cannot be read (delete it)"),
    ],
)
def test_a_loader_process_in_trouble_is_one_line(store, tmp_path, monkeypatch, act, said):
    monkeypatch.setattr(CropDataset, "__getitem__", in_a_worker(act))
    with pytest.raises(MDAEError) as caught:
        pretrain(short_run(store, tmp_path / "run", workers=1, val_every=0))
    assert said in str(caught.value) and "Traceback" not in str(caught.value)
