"""Learning rates of runs that hold, and of runs that are extended."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdae.errors import ConfigError
from mdae.training.config import PretrainConfig
from mdae.training.schedule import agree, legs_of, rate_at


def config(**changes: object) -> PretrainConfig:
    options: dict[str, object] = {"steps": 100, "lr": 2.0, "warmup": 0.1}
    return PretrainConfig(store=Path("store"), out=Path("run"), **{**options, **changes})  # type: ignore[arg-type]


def rates(**changes: object) -> list[float]:
    legs = legs_of(config(**changes))
    return [rate_at(legs, step) for step in range(legs[-1].last)]


def test_warm_up_hold_and_decay():
    found = rates(schedule="wsd", decay=0.2)
    assert found[:3] == pytest.approx([0.2, 0.4, 0.6]) and set(found[10:81]) == {2.0}
    assert found[81:83] == pytest.approx([1.9, 1.8]) and found[-1] == pytest.approx(0.1)


def test_an_extended_hold_is_what_a_longer_one_would_have_been():
    found = rates(schedule="wsd", decay=0.2, extend=(60, 40))
    assert len(found) == 200 and set(found[10:161]) == {2.0} and found[-1] == pytest.approx(0.05)
    assert found[:80] == rates(schedule="wsd", decay=0.2)[:80]


def test_an_extension_with_a_rate_of_its_own_rises_and_falls_again():
    for schedule in ("wsd", "cosine"):
        found = rates(schedule=schedule, extend=(50,), extend_lr=(0.5,))
        assert found[:100] == rates(schedule=schedule)
        assert found[100] == pytest.approx(0.1) and max(found[100:]) == 0.5 and found[-1] < 0.06


def test_a_rate_of_0_is_the_runs_own():
    for schedule in ("wsd", "cosine"):
        own = rates(schedule=schedule, extend=(50, 50), extend_lr=(0.5, 2.0))
        assert own == rates(schedule=schedule, extend=(50, 50), extend_lr=(0.5, 0))
    assert rates(extend=(50,), extend_lr=(0,)) == rates(extend=(50,))


def test_a_cosine_that_is_extended_rises_again_to_its_own_rate():
    found = rates(extend=(50, 50))
    assert found[:100] == rates() and max(found[100:150]) == max(found[150:]) == 2.0


@pytest.mark.parametrize(
    ("before", "now", "step", "same"),
    [
        ({}, {"extend": (50,)}, 100, True),
        ({"extend": (50,)}, {}, 101, False),
        ({"extend": (50,)}, {"extend": (50, 10)}, 150, True),
        ({"extend": (50,)}, {"extend": (60,)}, 105, False),  # their warm-ups are 5 and 6 steps
        ({"extend": (50,)}, {"extend": (60,)}, 100, True),
        ({"extend": (50,)}, {"extend": (50,), "extend_lr": (0.1,)}, 101, False),
        ({"extend": (50,)}, {"extend": (50,), "extend_lr": (0.1,)}, 100, True),
        ({"extend": (50,)}, {"extend": (50, 20), "extend_lr": (0, 0.1)}, 150, True),
        ({"schedule": "wsd"}, {"schedule": "wsd", "extend": (50,)}, 80, True),
        ({"schedule": "wsd"}, {"schedule": "wsd", "extend": (50,)}, 81, False),
    ],
)
def test_whether_the_steps_behind_a_run_stay_as_they_were(before, now, step, same):
    one, other = legs_of(config(**before)), legs_of(config(**now))
    assert agree(one, other, step) is same
    if same:
        assert [rate_at(one, s) for s in range(step)] == [rate_at(other, s) for s in range(step)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extend": (0,)}, "extend"),
        ({"extend_lr": (0.1,)}, "extend_lr"),
        ({"extend": (10,), "extend_lr": (0.1, 0.2)}, "extend_lr"),
        ({"extend": (10,), "extend_lr": (-0.1,)}, "extend_lr"),
        ({"schedule": "wsd", "decay": 1.0}, "decay"),
        ({"schedule": "wsd", "warmup": 0.9, "decay": 0.2}, "decay"),
        ({"schedule": "step"}, "schedule"),
    ],
)
def test_what_makes_no_schedule_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        config(**changes)
