"""Threads are chosen by what they bring now."""

from __future__ import annotations

import pytest
import torch

from mdae import devices
from mdae.devices import settle_threads


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({4: 100.0, 3: 90.0, 1: 30.0}, 4),
        ({4: 100.0, 3: 104.0, 1: 30.0}, 4),  # within what timing tells apart
        ({4: 20.0, 3: 60.0, 1: 30.0}, 3),  # beside a busy core
        ({4: 12.0, 3: 18.0, 1: 23.0}, 1),
    ],
)
def test_threads_that_bring_nothing_are_left_out(monkeypatch, rates, chosen):
    said = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(devices, "_most_threads", lambda: 4)
    monkeypatch.setattr(devices, "_rate", rates.get)
    monkeypatch.setattr(torch, "set_num_threads", said.append)
    assert settle_threads() == chosen == said[-1]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    settle_threads()
    assert said == [chosen], "who says how many is heard"


def test_timing_leaves_a_rate(monkeypatch):
    monkeypatch.setattr(devices, "TRIAL_S", 0.0)
    assert devices._rate(torch.get_num_threads()) > 0
