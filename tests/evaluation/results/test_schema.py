"""Figures of cases that are of one person."""

from __future__ import annotations

import math

from mdae.evaluation.results.schema import by_person


def test_figures_of_a_persons_cases_are_averaged_over_those_that_have_them():
    whose = {"hippocampus_001": "002_S_0413", "hippocampus_002": "002_S_0413", "hippocampus_005": "Müller"}
    found = {
        "hippocampus_001": {"dice": 0.6, "nsd": math.nan},
        "hippocampus_002": {"dice": 0.8, "nsd": 0.5},
        "hippocampus_005": {"dice": 0.9, "nsd": 0.7},
    }
    averaged = by_person(found, whose)
    assert list(averaged) == ["002_S_0413", "Müller"]
    assert averaged["Müller"] == found["hippocampus_005"]
    assert round(averaged["002_S_0413"]["dice"], 12) == 0.7 and averaged["002_S_0413"]["nsd"] == 0.5
