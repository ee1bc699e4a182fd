"""Which public cohorts third-party encoders were pre-trained on: a score on one of them is not on unseen people.

Their weights carry no list of scans, so cohorts are compared instead of scans. What is known stands in
`pretraining_data.yaml` beside this file; of all else nobody knows, and that is said.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mdae.files import read_yaml

TABLE = Path(__file__).with_name("pretraining_data.yaml")
Mark = Literal["", "seen", "shared", "unseen", "unknown"]

# What scans have to have undergone for weights to be of use, and which is not done here.
UNDERGONE = {
    "brainiac": "BrainIAC knows scans after N4, rigid registration and skull stripping; none of these is done here",
}


@dataclass(frozen=True)
class Exposure:
    """Whether an encoder was pre-trained on the people of a data set.

    Attributes:
        mark: seen (on the data set itself), shared (on another that holds people of it), unseen, or unknown; "" for
            encoders that list their own scans, or have none.
        what: what is known, in words.
    """

    mark: Mark = ""
    what: str = ""

    @property
    def contaminated(self) -> bool:
        """Whether scores are not on unseen people."""
        return self.mark in ("seen", "shared")


@dataclass(frozen=True, kw_only=True)
class PretrainingData:
    """What an encoder was pre-trained on.

    Attributes:
        name: whose weights.
        cohorts: how much of which cohort.
        listed: whether these are all.
        source: where it stands.
        medical: whether medical images are among them.
    """

    name: str
    cohorts: Mapping[str, str]
    listed: bool
    source: str
    medical: bool = True

    def exposure(self, layout: str) -> Exposure:
        """To the people of a data set, by the layout of its tasks."""
        if layout in self.cohorts:
            return Exposure(
                "seen", f"pre-trained on {_title(layout)}, {self.cohorts[layout]} ({self.source})"
            )
        for cohort, how_many in self.cohorts.items():
            if how := overlap_of(cohort, layout):
                what = f"pre-trained on {_title(cohort)}, {how_many} ({self.source}): {how}"
                return Exposure("shared", what)
        if not self.medical or (self.listed and layout in _table()["cohorts"]):
            return Exposure("unseen", f"not in what {self.name} was pre-trained on ({self.source})")
        return Exposure("unknown", f"{self.name}: {self.source}")


@functools.cache
def _table() -> dict[str, Any]:
    return dict(read_yaml(TABLE, "a table of pre-training data's"))


def _title(cohort: str) -> str:
    return str(_table()["cohorts"].get(cohort, cohort))


def overlap_of(one: str, other: str) -> str:
    """What two cohorts have in common, in words; "" if nothing is known."""
    found = (row["how"] for row in _table()["overlaps"] if {one, other} == set(row["cohorts"]))
    return next(found, "")


def pretraining_data(encoder: str) -> PretrainingData | None:
    """What is known of an encoder's pre-training, KIND:PATH; None if nothing is."""
    for row in _table()["encoders"]:
        if re.fullmatch(row["spec"], encoder, re.IGNORECASE):
            return PretrainingData(**{key: value for key, value in row.items() if key != "spec"})
    return None


def known_exposure(encoder: str, layout: str) -> Exposure:
    """What is known of a third-party encoder, KIND:PATH, and the data set of a task's layout."""
    known = pretraining_data(encoder)
    if known is None:
        return Exposure("unknown", "nobody has written down what it was pre-trained on")
    return known.exposure(layout)


def describe_exposure(encoder: str) -> Iterator[str]:
    """Lines on every cohort of the catalogue that an encoder is known to have seen, and where that stands."""
    known = pretraining_data(encoder)
    if known is None:
        yield "unknown what it was pre-trained on"
        return
    for layout in _table()["cohorts"]:
        found = known.exposure(layout)
        if found.contaminated:
            yield f"not unseen: {layout}: {found.what}"
    if not known.listed:
        yield f"other data sets: unknown ({known.source})"
