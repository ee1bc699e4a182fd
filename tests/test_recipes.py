"""The recipes: every question can be asked, and all of them are answered in a small field."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from mdae.objectives import OBJECTIVES
from mdae.sweep.spec import read_spec
from recipes import collect, few_labels, few_labels_page, field, lidc_page, page, robustness_page

UNSHOWN = {"field-linear", "time-linear"}  # beside the table of the readout they say nothing more


def test_no_run_of_a_question_is_another_networks_or_budgets():
    config = field.FieldConfig(out=Path("field"), real=Path("patients"))
    timed = {"mdae": 250, "mae": 300, "voco": 75}
    asked = field.questions(config, timed)
    assert set(OBJECTIVES) < set(asked["field"]["variants"])
    assert asked["field"]["variants"] == asked["gain"]["variants"] == asked["real"]["variants"]
    assert asked["time"]["variants"]["voco, equal time"] == {"objective": "voco", "steps": 75}
    assert "mae, equal time" not in asked["time"]["variants"], "its steps are about as many"
    assert len({json.dumps(question["base"]) for question in asked.values()}) == 1
    for question in asked.values():
        assert question["baseline"] in question["variants"]


def test_patients_get_intervals_over_seeds_alone():
    rows = [("mdae", 0, 0.4), ("mdae", 1, 0.6), ("untrained", 0, 0.3), ("untrained", 1, 0.4)]
    runs = pd.DataFrame(rows, columns=["variant", "seed", "average_precision"]).assign(
        modality="T2w", dice=0.5
    )
    found = collect.real(runs).set_index("variant")
    assert found.gain["mdae"] == pytest.approx(0.15) and found.gain["untrained"] == 0
    assert found.high["mdae"] - found.gain["mdae"] == pytest.approx(12.706 * 0.05, rel=1e-4)  # t of 1 degree


@pytest.mark.slow
def test_a_small_field_is_asked_everything_and_goes_on_where_it_was_left(tmp_path, monkeypatch):
    out = tmp_path / "field"
    monkeypatch.setattr(field, "OBJECTIVES", ("mdae", "mae", "dsm"))
    monkeypatch.setattr(field, "LIMITS", {"foreground": {"foreground": True}})
    options = {"patch": 16, "spacing-mm": 6, "steps": 50, "batch": 2, "seeds": 2, "workers": 1}
    options |= {"pretraining": 4, "probing": 20, "segmented": 10}
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", ["field", str(out), *given])
    field.main()
    asked = field.questions(field.FieldConfig(out=out), {})
    collect.collect(out, tmp_path / "results", tmp_path / "picture.png")
    for name in (*asked, "losses"):
        assert len(pd.read_csv(tmp_path / "results" / f"{name}.csv")) > 1
    assert (tmp_path / "picture.png").exists()
    done = {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*/done.json")}
    assert len(done) == len({run.key for name in asked for run in read_spec(out / f"{name}.yaml").runs()})
    field.main()
    assert done == {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*/done.json")}


def test_the_tables_of_the_page_are_those_of_the_results():
    text = page.PAGE.read_text()
    found = page.tables(page.RESULTS) | few_labels_page.all_tables()
    found |= lidc_page.tables() | robustness_page.all_tables()
    assert page.filled(text, found) == text, (
        "python -m recipes.collect and recipes.few_labels_page write them"
    )
    places = set(re.findall(r"<!-- table: ([\w-]+) -->", text))
    assert places <= set(found) and set(found) - places <= UNSHOWN


def test_a_table_shows_the_difference_and_sets_a_sure_one_in_bold():
    rows = [
        {"variant": name, "modality": modality, "protocol": "voxels", "metric": "dice", "value": 0.3, **found}
        for name, found in (
            ("a", {}),
            ("b", {"difference": 0.1, "difference_low": 0.05, "difference_high": 0.15, "p_holm": 0.01}),
            ("c", {"difference": -0.1, "difference_low": -0.3, "difference_high": 0.1, "p_holm": 1.0}),
        )
        for modality in page.PLACES
    ]
    first, second, third = page.differences(pd.DataFrame(rows), "voxels").splitlines()[2:]
    assert first == "| **a**: dice | 0.300 | 0.300 | 0.300 |"
    assert second.startswith("| b | **+0.100** [+0.050, +0.150] |")
    assert third.startswith("| c | -0.100 [-0.300, +0.100] |")


def test_what_is_searched_never_sees_a_test_subject(tmp_path):
    parts = ["train"] * 14 + ["val"] * 3 + ["test"] * 5 + ["unlabelled"] * 2
    names = [f"A{number:04d}" for number in range(len(parts))]
    table = pd.DataFrame({"scan": names, "subject": names, "split": parts})
    table["labelled"] = ["0" if part == "unlabelled" else "1" for part in parts]
    table.to_csv(tmp_path / "subjects.csv", index=False)
    options = {"out": tmp_path, "data": tmp_path, "subjects": tmp_path / "subjects.csv"}
    found = pd.read_csv(few_labels.make_split(few_labels.StudyConfig(**options, scored="val"))).set_index(
        "subject"
    )
    assert set(found.index) == set(names[:17])
    assert (found.split[names[14:17]] == "test").all(), "val subjects are scored"
    assert found.split[names[:14]].value_counts().to_dict() == {"val": few_labels.STAND_INS, "train": 4}
    whole = pd.read_csv(few_labels.make_split(few_labels.StudyConfig(**options)))
    assert whole.split.tolist() == parts[:22]


def test_a_search_is_shown_beside_the_setting_of_the_study():
    rows = []
    for name, dice in (("mdae", 0.7), ("mdae, block 4", 0.6), ("mae", 0.5)):
        for readout, size, draw in itertools.product(("beside", "alone"), ("4", "16"), range(2)):
            key = (few_labels.VERSION, name, 300, 0, readout, size, draw)
            own = {"A0001": dice, "Müller-05": dice + 0.1}
            rows.append(dict(zip(few_labels.KEY, key, strict=True)) | {"dice": dice + 0.05} | own)
    shown = few_labels_page.search_table(few_labels_page.Study(pd.DataFrame(rows)), "mdae").splitlines()
    assert shown[2].startswith("| block 8, lr 2e-3 | 0.750 | 0.750 |") and len(shown) == 4
    assert shown[3].startswith("| block 4 | 0.650 (-0.100 [")
