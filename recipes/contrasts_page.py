"""The picture and the tables of `recipes.contrasts`, from its rows.

python -m recipes.contrasts_page
"""

from __future__ import annotations

from pathlib import Path

from mdae.figures import save_png
from recipes.contrasts import RESULTS, SEGMENTED
from recipes.few_labels import UNTRAINED, read_rows
from recipes.few_labels_page import LINES, Study, dice_table, gain_table, picture
from recipes.page import PAGE, filled

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "contrasts.png"
SIZES = ("1", "2", "4")
READOUTS = ("alone", "beside")


def study_of(contrast: str) -> Study:
    """The finished rows of a contrast."""
    return Study(read_rows(RESULTS / f"{contrast}.csv"), drawn={name: name for name in LINES})


def all_tables() -> dict[str, str]:
    """Every table by name."""
    found = {}
    for contrast in (name.lower() for name in SEGMENTED):
        study = study_of(contrast)
        for readout in READOUTS:
            found[f"contrasts-{contrast}-{readout}"] = dice_table(study, readout, SIZES)
            found[f"contrasts-{contrast}-{readout}-gain"] = gain_table(study, readout, UNTRAINED, SIZES)
            found[f"contrasts-{contrast}-{readout}-objectives"] = gain_table(study, readout, "mae", SIZES)
    return found


def main() -> None:
    save_png(PICTURE, picture(study_of("flair")))
    PAGE.write_text(filled(PAGE.read_text(), all_tables()))


if __name__ == "__main__":
    main()
