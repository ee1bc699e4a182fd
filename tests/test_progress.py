"""A line of progress: its rate and its end are of what is being done now."""

from __future__ import annotations

import re

import pytest

from mdae import progress as module
from mdae.progress import Progress


def test_the_next_part_has_its_own_rate_and_end(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with Progress("fitting", 200, unit="steps") as progress:
        for seconds in (50, 100):
            progress.restart()
            for done in (100, 200):
                now[0] += seconds / 2
                progress.update(done, "fold")
    rates = [float(found) for found in re.findall(r"([\d.]+) steps/s", capsys.readouterr().err)]
    assert rates == pytest.approx([4.0, 4.0, 2.0, 2.0])
