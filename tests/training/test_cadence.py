"""When a run looks, saves and logs."""

from __future__ import annotations

import pytest
import torch

from mdae.errors import ConfigError
from mdae.training import cadence
from mdae.training.cadence import Cadence, Clock, read_cadence
from mdae.training.config import PretrainConfig
from mdae.training.launch import World
from mdae.training.place import Place
from mdae.training.run import open_run
from tests.conftest import short_run


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (200, Cadence(200)),
        ("200", Cadence(200)),
        ("10min", Cadence(0, 10)),
        ("1.5h", Cadence(0, 90)),
        (0, Cadence()),
    ],
)
def test_steps_and_times(given, meant):
    assert read_cadence(given, "val_every") == meant


@pytest.mark.parametrize("given", ["10 parsecs", "-1", -1, "0min", "nanmin", "min", "1e3"])
def test_what_is_neither_is_one_line(tmp_path, given):
    with pytest.raises(ConfigError, match="give steps"):
        PretrainConfig(store=tmp_path, out=tmp_path, val_every=given)


def test_what_must_come_again_cannot_be_never(tmp_path):
    with pytest.raises(ConfigError, match="checkpoint_every is 0"):
        PretrainConfig(store=tmp_path, out=tmp_path, checkpoint_every=0)


class Told:
    """Two processes, of which the other is told of by hand."""

    lead, size = True, 2

    def __init__(self) -> None:
        self.other: list[int] | None = None
        self.words = 0

    def largest(self, values: list[int]) -> list[int]:
        self.words += 1
        other = self.other or [0] * len(values)
        return [max(pair) for pair in zip(values, other, strict=True)]


def test_minutes_pass_and_steps_come_round(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(cadence.time, "monotonic", lambda: now[0])
    cadences = {"log": Cadence(3), "checkpoint": Cadence(0, 1.0), "picture": Cadence()}
    clock = Clock(cadences, 10, World(Place(), torch.device("cpu")))
    due = []
    for step in range(1, 11):
        now[0] += 25.0
        due.append(clock.after(step, stop=False))
    seen = {step + 1: names for step, names in enumerate(due) if names}
    assert seen == {step: {"log", "checkpoint"} for step in (3, 6, 9, 10)}
    assert clock.after(4, stop=True) == {"stop"}


def test_processes_speak_seldom_where_steps_are_short_and_at_every_long_one(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(cadence.time, "monotonic", lambda: now[0])
    for seconds, words in ((0.001, 1), (0.5, 25), (30.0, 100)):
        world = Told()
        clock = Clock({"log": Cadence(10)}, 1000, world)  # type: ignore[arg-type]
        for step in range(1, 101):
            now[0] += seconds
            clock.after(step, stop=False)
        assert abs(world.words - words) <= 1, seconds


def test_a_signal_to_one_process_stops_all_of_them_at_one_step():
    world = Told()
    clock = Clock({"log": Cadence(10)}, 1000, world)  # type: ignore[arg-type]
    world.other = [1, 0]
    assert clock.after(1, stop=False) == {"stop"}


def test_validations_are_as_seldom_as_their_cost_asks(store, tmp_path):
    def steps(**changes: object) -> int:
        return open_run(short_run(store, tmp_path, val_every="auto", **changes)).cadences["val"].steps

    told = "two volumes that are looked at cost a third of a batch, 64 that are only encoded 16 / 3 of one"
    assert steps(steps=100, batch=2) == 114, told
    assert steps(steps=500_000, batch=32) == 2500


def test_the_model_is_exported_at_the_end_alone_unless_asked(tmp_path):
    assert PretrainConfig(store=tmp_path, out=tmp_path, steps=50).cadences()["export"] == Cadence(50)
