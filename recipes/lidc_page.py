"""The tables of `recipes.lidc`, from its results.

python -m recipes.lidc_page
"""

from __future__ import annotations

import pandas as pd

from mdae.evaluation.statistics.intervals import Estimate
from mdae.evaluation.statistics.tests import holm
from recipes.few_labels import read_rows
from recipes.few_labels_page import Study, dice_table, gain_table, title
from recipes.lidc import RESULTS
from recipes.page import PAGE, SURE, filled, markdown, signed

QUESTIONS = {
    "stratum": "malignant, 8 to 12 mm",
    "stratum-folds": "the same, cross-validated",
    "malignant": "malignant, all sizes",
    "solid": "solid",
    "spiculated": "spiculated",
}
BESIDE = {"malignant-beside": "malignant, with the diameter"}
SIZES = ("4", "16")
SEEDLESS = ("diameter", "crop volume", "histogram")
FIRST = (*SEEDLESS, "cnn", "untrained")  # of the rows


def areas(table: pd.DataFrame, questions: dict[str, str]) -> str:
    """AUROC with intervals, an encoder a row, a question a column."""
    cells = {(row.question, row.encoder): row for row in table.itertuples()}
    rows = []
    for encoder in _ordered(table):
        found = [cells.get((question, encoder)) for question in questions]
        if any(found):
            seeds = "" if encoder in SEEDLESS else str(max(own.seeds for own in found if own))
            shown = [str(Estimate(own.value, own.low, own.high)) if own else "" for own in found]
            rows.append([title(encoder), seeds, *shown])
    return markdown(["AUROC [95 %]", "seeds", *questions.values()], rows)


def gains(table: pd.DataFrame, questions: dict[str, str], other: str) -> str:
    """Each encoder's AUROC less another's, paired; bold where Holm's p over the table is below 0.05."""
    here = table[table.question.isin(list(questions)) & table[f"less_{other}"].notna()]
    here = here.assign(sure=holm(here[f"less_{other}_p"].tolist()))
    cells = {(row["question"], row["encoder"]): row for _, row in here.iterrows()}
    rows = []
    for encoder in _ordered(here):
        shown = []
        for question in questions:
            own = cells.get((question, encoder))
            values = [] if own is None else [own[f"less_{other}{end}"] for end in ("", "_low", "_high")]
            shown.append(signed(*values, sure=own["sure"] < SURE) if values else "")
        rows.append([title(encoder), *shown])
    return markdown([f"less {other}", *questions.values()], rows)


def _ordered(table: pd.DataFrame) -> list[str]:
    found = list(table.encoder.unique())
    return [name for name in FIRST if name in found] + [name for name in found if name not in FIRST]


def tables() -> dict[str, str]:
    """Every table by name."""
    table = pd.read_csv(RESULTS / "labels.csv")
    networks = table[~table.encoder.isin(SEEDLESS)]
    found = {
        "lidc-labels": areas(table, QUESTIONS),
        "lidc-labels-gain": gains(networks, QUESTIONS, "untrained"),
        "lidc-beside": areas(table, BESIDE),
        "lidc-beside-gain": gains(table, BESIDE, "diameter"),
    }
    study = Study(read_rows(RESULTS / "masks.csv"))
    for readout in ("alone", "beside"):
        if study.sizes_of(readout):
            found[f"lidc-masks-{readout}"] = dice_table(study, readout, SIZES)
            found[f"lidc-masks-{readout}-gain"] = gain_table(study, readout, "untrained", SIZES)
    return found


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(), tables()))


if __name__ == "__main__":
    main()
