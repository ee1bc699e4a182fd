"""Batches that the device's memory does not hold are split."""

from __future__ import annotations

import pytest
import torch

from mdae.errors import ConfigError
from mdae.training import memory
from mdae.training.launch import World, launch
from mdae.training.loop import pretrain
from mdae.training.place import Place
from mdae.training.run import open_run
from tests.conftest import short_run
from tests.training.test_loop import assert_same_run

GIGA = 1e9


def world_of(config) -> World:
    return launch(config)


def test_the_largest_divisor_that_fits():
    assert memory.divisors(12) == [12, 6, 4, 3, 2, 1]
    assert memory.first_that([12, 6, 4], lambda n: n <= 6) == 6
    assert memory.first_that([12, 6, 4], lambda n: False) == 4


def test_a_batch_that_does_not_fit_trains_as_if_it_had_been_split_by_hand(
    named_store, tmp_path, monkeypatch, caplog
):
    by_hand = short_run(named_store, tmp_path / "hand", steps=4, batch=4, accumulate=2)
    pretrain(by_hand)
    monkeypatch.setattr(memory, "needs_no_count", lambda *_: False)
    monkeypatch.setattr(memory, "countable_on_cpu", lambda *_: 3)
    pretrain(short_run(named_store, tmp_path / "auto", steps=4, batch=4))
    assert_same_run(tmp_path / "hand", tmp_path / "auto")
    assert "2 micro-batches of 2 a step" in caplog.text


def test_what_is_counted_is_about_what_a_step_keeps(named_store, tmp_path):
    """The bytes of two volumes are twice those of one, and a larger crop costs its voxels."""
    small = open_run(short_run(named_store, tmp_path / "a", patch=(16, 16, 16)))
    large = open_run(short_run(named_store, tmp_path / "b", patch=(32, 16, 16)))
    one, two = memory.bytes_a_volume(small), memory.bytes_a_volume(large)
    assert one == pytest.approx(two / 2, rel=0.1)
    maps = one / (4 * small.objective.network.largest_map(small.patch))  # in float32
    assert 4 < maps < memory.MAPS, "the guess before counting is an upper bound"


def test_memory_is_what_the_container_leaves(tmp_path, monkeypatch):
    for name, text in (("max", "8000000000\n"), ("current", "5000000000\n"), ("none", "max\n")):
        (tmp_path / name).write_text(text)
    pair, no_limit = (tmp_path / "max", tmp_path / "current"), (tmp_path / "none", tmp_path / "current")
    monkeypatch.setattr(memory, "_meminfo", lambda: 64 * GIGA)
    monkeypatch.setattr(memory, "CGROUPS", (tuple(map(str, no_limit)), tuple(map(str, pair))))
    assert memory.available_bytes() == 3 * GIGA
    monkeypatch.setattr(memory, "CGROUPS", (tuple(map(str, no_limit)),))
    assert memory.available_bytes() == 64 * GIGA


def test_objectives_that_compare_samples_are_never_split(named_store, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "largest_fitting", lambda *_: pytest.fail("tried"))
    config = short_run(named_store, tmp_path / "run", objective="simclr", batch=4)
    assert memory.fitted_micro_batch(open_run(config), world_of(config)) == 4
    with pytest.raises(ConfigError, match="was given 1"):
        memory.fitted_micro_batch(
            open_run(short_run(named_store, tmp_path / "x", objective="simclr", batch=1)), world_of(config)
        )


@pytest.mark.gpu
def test_a_gpu_is_tried(named_store, tmp_path):
    config = short_run(named_store, tmp_path / "run", accelerator="cuda", network="small", patch=(64, 64, 64))
    run, world = open_run(config), World(Place(), torch.device("cuda", 0), bf16=True)
    run.objective.to(world.device)
    assert memory.holds(run, world, 2)
    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        assert not memory.holds(run, world, 64)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
