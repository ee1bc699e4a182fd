"""The tables of `recipes.contrasts`, from its rows.

python -m recipes.contrasts_page
"""

from __future__ import annotations

from recipes.contrasts import RESULTS, SEGMENTED
from recipes.few_labels import UNTRAINED, read_rows
from recipes.few_labels_page import Study, dice_table, gain_table
from recipes.page import PAGE, filled

SIZES = ("1", "2", "4")
READOUTS = ("alone", "beside")


def all_tables() -> dict[str, str]:
    """Every table by name."""
    found = {}
    for contrast in (name.lower() for name in SEGMENTED):
        study = Study(read_rows(RESULTS / f"{contrast}.csv"))
        for readout in READOUTS:
            found[f"contrasts-{contrast}-{readout}"] = dice_table(study, readout, SIZES)
            found[f"contrasts-{contrast}-{readout}-gain"] = gain_table(study, readout, UNTRAINED, SIZES)
    return found


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(), all_tables()))


if __name__ == "__main__":
    main()
