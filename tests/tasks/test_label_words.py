"""A word that no row of the table has is named, with those that it has."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import yaml

from mdae.errors import DataError
from mdae.tasks.label_words import require_words
from mdae.tasks.record import LabelRule, Task, task_from_dict

ROWS = [
    {"Diagnose": word, "Tage": str(number), "Status": state}
    for number, (word, state) in enumerate(
        [("Kontrolle", "lebt"), ("MS gesichert", "verstorben"), ("n/a", "lebt"), ("MS gesichert", "lebt")]
    )
]


def asked(kind: str = "classification", **rule: object) -> None:
    task = Task(
        name="own",
        title="",
        layout="table",
        kind=kind,
        label=LabelRule(**rule),
        contrasts=("T1w",),  # type: ignore[arg-type]
    )
    require_words(task, ROWS, "clinic.csv")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "rule", "words"),
    [
        (
            "classification",
            {"column": "Diagnose", "positive": ("MS",)},
            "clinic.csv: no row's 'Diagnose' is 'MS'; it has 'Kontrolle', 'MS gesichert' (correct 'positive' in the "
            "label of own)",
        ),
        (
            "classification",
            {"column": "Diagnose", "positive": ("*",), "negative": ("gesund",)},
            "is 'gesund'",
        ),
        (
            "classification",
            {"column": "Diagnose", "classes": ("Kontrolle", "MS gesichert", "CIS")},
            "no row's 'Diagnose' is 'CIS'",
        ),
        ("regression", {"column": "Diagnose"}, "no row's 'Diagnose' is a number; it has 'Kontrolle'"),
        ("classification", {"column": "Diagnose", "above": 2.0}, "is a number"),
        (
            "survival",
            {"column": "Tage", "event": "Status", "happened": ("tot",)},
            "no row's 'Status' is 'tot'; it has 'lebt', 'verstorben' (correct 'happened'",
        ),
    ],
)
def test_a_misspelled_word_is_named(kind, rule, words):
    with pytest.raises(DataError) as raised:
        asked(kind, **rule)
    assert words in str(raised.value)


def test_what_stands_in_the_table_passes():
    asked(column="Diagnose", positive=("MS gesichert", "MS, definite"), negative=("kontrolle",))
    asked("survival", column="Tage", event="Status", happened=("verstorben",))
    asked(column="Tage", above=1.0)


def test_the_tasks_that_the_docs_show_fit_the_table_that_they_show():
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    table, lines = (re.findall(rf"```{kind}```", text, re.S)[0] for kind in (r"\n(path,.*?)", r"yaml\n(.*?)"))
    rows = list(csv.DictReader(table.splitlines()))
    kinds = [task_from_dict(yaml.safe_load(line)) for line in lines.splitlines()]
    assert {task.kind for task in kinds} == {"classification", "regression", "survival", "segmentation"}
    for task in kinds:
        if task.name != "grade":  # two rows show no three classes
            require_words(task, rows, Path("clinic.csv"))
