"""Checkpoints are written beside training, whole or not at all."""

from __future__ import annotations

import resource
import signal
import threading

import pytest
import torch

import mdae.training.checkpoint as checkpoint
from mdae.errors import DataError
from mdae.files import atomic_write
from mdae.training.checkpoint import CheckpointWriter, newest_readable


def state(value: float) -> dict:
    return {"fingerprint": {}, "weights": torch.full((1000,), value)}


def test_what_is_written_is_the_state_when_it_was_asked_for_whatever_training_does_meanwhile(
    tmp_path, monkeypatch
):
    go, original = threading.Event(), checkpoint.save_checkpoint

    def slow(*arguments, **options):
        go.wait(10)
        return original(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save_checkpoint", slow)
    writer, live = CheckpointWriter(tmp_path), state(1.0)
    writer.save(1, live)
    live["weights"].fill_(2.0)
    go.set()
    writer.wait()
    found = newest_readable(tmp_path, device=torch.device("cpu"))
    assert found is not None and bool((found[1]["weights"] == 1.0).all())


@pytest.fixture
def small_disk():
    """Files of this process may hold no more than 100,000 bytes: what a full disk does to a writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_one_line_and_the_last_good_checkpoint_is_whole(tmp_path, small_disk):
    writer = CheckpointWriter(tmp_path)
    writer.save(1, state(1.0))
    writer.save(2, {**state(2.0), "more": torch.zeros(1_000_000)})
    with pytest.raises(DataError, match="free some space"):
        writer.wait()
    found = newest_readable(tmp_path, device=torch.device("cpu"))
    assert found is not None and found[0].name == "step-00000001.pt"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001.pt"], "nothing is left behind"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 6400 vs 6294"),
        RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_what_torch_and_safetensors_say_of_a_full_disk(tmp_path, error):
    with pytest.raises(DataError, match="the disk is full"), atomic_write(tmp_path / "file"):
        raise error
