"""The tables of `recipes.transfer`, from its rows and those of the encoders that learned on the set itself.

python -m recipes.transfer_page
"""

from __future__ import annotations

import pandas as pd

from recipes import few_labels_page, lidc
from recipes.few_labels import BASELINES, read_rows
from recipes.few_labels_encoders import UNTRAINED
from recipes.few_labels_page import Study, dice_table, gain_table
from recipes.page import PAGE, filled
from recipes.transfer import RESULTS, ways_between

OWN = ("mdae", "mae")  # whose weights are moved
SIZES = ("4", "16")
READOUTS = ("alone", "beside")
ITS_OWN = {"hippocampus": few_labels_page.TEST, "lidc": lidc.RESULTS / "masks.csv"}


def study_of(way: str, origin: str) -> Study:
    """Encoders from the other set beside those that learned on this one.

    Args:
        way: the set that is segmented.
        origin: what encoders from the other are called.
    """
    own = read_rows(ITS_OWN[way])
    own = own[own.encoder.isin((*BASELINES, UNTRAINED, *OWN))]
    moved = tuple(f"{name}, {origin}" for name in OWN)
    return Study(pd.concat([own, read_rows(RESULTS / f"{way}.csv")]), kept=(*OWN, *moved))


def all_tables() -> dict[str, str]:
    """Every table by name."""
    found = {}
    for way, origin in ways_between().items():
        study = study_of(way, origin)
        for readout in READOUTS:
            found[f"transfer-{way}-{readout}"] = dice_table(study, readout, SIZES)
            found[f"transfer-{way}-{readout}-gain"] = gain_table(study, readout, UNTRAINED, SIZES)
    return found


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(), all_tables()))


if __name__ == "__main__":
    main()
