"""The recipes: every question can be asked, and all of them are answered in a small field."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from mdae.objectives import OBJECTIVES, objective_config
from mdae.options import read_changes
from mdae.sweep.spec import read_spec
from recipes import (
    collect,
    contrasts_page,
    few_labels,
    few_labels_encoders,
    few_labels_page,
    field,
    lidc_page,
    page,
    robustness_page,
    transfer_page,
)

UNSHOWN = {  # beside the tables of other readouts and of the contrast that was never seen they say nothing more
    *("field-linear", "time-linear"),
    *("contrasts-t2w-alone-objectives", "contrasts-t2w-beside-objectives"),
}


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
    found |= lidc_page.tables() | robustness_page.all_tables() | transfer_page.all_tables()
    found |= contrasts_page.all_tables()
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


def people(folder, *, column=True):
    """A data set of 24 persons, two of them without labels, and its table."""
    parts = ["train"] * 14 + ["val"] * 3 + ["test"] * 5 + ["unlabelled"] * 2
    names = [f"Müller_{number:04d}" for number in range(len(parts))]
    table = pd.DataFrame({"scan": names, "subject": names, "split": parts})
    with_labels = table.split != "unlabelled"
    if column:
        table["labelled"] = with_labels.astype(int)
    about = {"channel_names": {"0": "T2"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii"}
    (folder / "labelsTr").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(about))
    for name in table.scan[with_labels]:
        (folder / "labelsTr" / f"{name}.nii").touch()
    table.to_csv(folder / "subjects.csv", index=False)
    return names, parts, {"out": folder, "data": folder, "subjects": folder / "subjects.csv"}


@pytest.mark.parametrize("column", [True, False])
def test_what_is_searched_never_sees_a_test_subject(tmp_path, column):
    names, parts, options = people(tmp_path / "Dataset017_Spleen", column=column)
    found = pd.read_csv(few_labels.make_split(few_labels.StudyConfig(**options, scored="val"))).set_index(
        "subject"
    )
    assert set(found.index) == set(names[:17])
    assert (found.split[names[14:17]] == "test").all(), "val subjects are scored"
    assert found.split[names[:14]].value_counts().to_dict() == {"val": 7, "train": 7}
    whole = few_labels.StudyConfig(**options)
    assert pd.read_csv(few_labels.make_split(whole)).split.tolist() == parts[:22]
    assert whole.table.name == "spleen.csv" and whole.table != few_labels_page.TEST
    assert few_labels.fitting(whole) == ("1", "2", "4", "8", "all"), "of 14 train persons"


def test_an_encoders_name_says_what_is_set():
    found = few_labels_encoders.options_of("mae, block 4, variable ratio, lr 4e-3, 25 volumes")
    assert found == {
        "objective": "mae",
        "settings": ("block=4,4,4", "p_min=0.01", "p_max=0.99"),
        "lr": 4e-3,
        "volumes": 25,
    }
    listed = {name for base in few_labels_encoders.OWN for name in few_labels_encoders.tried(base)}
    assert len(listed) == 5 * len(few_labels_encoders.OWN), "each objective is searched alike"
    for name in (*listed, *few_labels_encoders.DESIGNS, *few_labels_encoders.LANDSCAPE):
        config = few_labels.Trained(name, 0, 7).pretraining(Path("out"))
        if config.plugin:
            continue  # tests/test_more_objectives.py has these
        objective_config(config.objective, config.options, read_changes(config.settings))


def test_the_best_rate_and_the_best_setting_are_chosen_each_by_itself():
    dice = {"mae": 0.5, "mae, lr 1e-3": 0.4, "mae, lr 4e-3": 0.6, "mae, block 4": 0.4, "mae, block 16": 0.45}
    rows = pd.DataFrame([{"encoder": name, "seed": 0, "dice": value} for name, value in dice.items()])
    unpaired = pd.DataFrame([{"encoder": f"mae{more}", "seed": 1, "dice": 0.9} for more in ("", ", block 4")])
    assert few_labels_encoders.chosen("mae", pd.concat([rows, unpaired])) == "mae, lr 4e-3"
    better = rows.assign(dice=rows.dice + 0.2 * (rows.encoder == "mae, block 16"))
    assert few_labels_encoders.chosen("mae", better) == "mae, lr 4e-3, block 16"
    with pytest.raises(SystemExit, match="dsm: its search is not finished"):
        few_labels_encoders.chosen("dsm", rows)


def test_several_processes_share_the_encoders(tmp_path):
    *_, options = people(tmp_path / "data")
    config, own = few_labels.StudyConfig(**options), few_labels.Trained("mae", 0, 7)
    with few_labels.taken(config, own) as first, few_labels.taken(config, own) as second:
        assert first and not second
    with few_labels.taken(config, own) as again:
        assert again


def rows_of(dice, steps, readouts=("beside",)):
    """Rows of two persons, two draws and two numbers of labels, by encoder."""
    rows = []
    for name, value in dice.items():
        for readout, size, draw in itertools.product(readouts, ("4", "16"), range(2)):
            key = (few_labels.VERSION, name, steps, 0, readout, size, draw)
            own = {"A0001": value, "Müller-05": value + 0.1}
            rows.append(dict(zip(few_labels.KEY, key, strict=True)) | {"dice": value + 0.05} | own)
    return pd.DataFrame(rows)


def test_a_search_shows_what_was_tried_and_what_was_taken():
    dice = dict.fromkeys(few_labels_encoders.tried("dsm"), 0.5) | {
        "dsm, noise to 15": 0.6,
        "dsm, lr 1e-3": 0.55,
    }
    shown = few_labels_page.search_table(few_labels_page.Study(rows_of(dice, few_labels_page.STEPS)))
    (row,) = shown.splitlines()[2:]
    assert row == (
        "| DSM | lr 2e-3: 0.550 · **lr 1e-3: 0.600** · lr 4e-3: 0.550 "
        "| as it is: 0.550 · noise to 1: 0.550 · **noise to 15: 0.650** |"
    )


def test_encoders_are_paired_by_seed_not_by_order():
    rows = rows_of({"mdae": 0.7, "mae": 0.5}, few_labels_page.STEPS)
    of_mdae = rows[rows.encoder == "mdae"]
    more = of_mdae.assign(seed=3, dice=0.0, **dict.fromkeys(("A0001", "Müller-05"), 0.1))
    study = few_labels_page.Study(pd.concat([more, rows, rows[rows.encoder == "mae"].assign(seed=1)]))
    assert study.pairs("mdae", "mae", "beside", "4") == [0]
    gain, _ = study.difference("mdae", "mae", "beside", "4")
    assert gain.value == pytest.approx(0.2)
    assert study.difference("mdae", "simmim", "beside", "4") is None


def test_designs_are_shown_beside_mdae_itself():
    dice = {"mdae": 0.7, "mdae, flow": 0.6, "spread": 0.8}
    study = few_labels_page.Study(rows_of(dice, few_labels_page.STEPS))
    shown = few_labels_page.designs_table(study).splitlines()
    assert shown[2].startswith("| MDAE | 1 | 0.750 | 0.750 |") and len(shown) == 5
    assert shown[3].startswith("| MDAE, flow | 1 | 0.650 (-0.100 [")
    assert shown[4].startswith("| MDAE, features kept apart | 1 | 0.850 (+0.100 [")
