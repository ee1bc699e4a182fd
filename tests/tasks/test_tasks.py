"""The catalogue and the layouts: records are whole, data sets are read as they unpack, labels follow their rules."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from mdae.cli import main
from mdae.errors import ConfigError, DataError
from mdae.evaluation.cohort import find_cohort
from mdae.tasks.catalogue import CATALOGUE, find_task
from mdae.tasks.layouts import LAYOUTS, read_cases
from mdae.tasks.record import FUSED, LabelRule, scenario_of, task_from_dict
from tests.tasks.trees import SUBJECTS, TREES


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> dict[str, Path]:
    """Each data set, made up, by layout."""
    root = tmp_path_factory.mktemp("trees")
    return {name: make(root / name) for name, make in TREES.items()}


def test_every_record_is_whole():
    names = [task.name for task in CATALOGUE]
    assert len(names) == len(set(names))
    assert sum(task.kind == "classification" for task in CATALOGUE) == 16
    for task in CATALOGUE:
        assert task.layout in LAYOUTS and task.access.startswith("https://") and task.licence and task.cohort
        assert task_from_dict(task.to_dict()) == task
        assert task.split and task.metric


@pytest.mark.parametrize("task", [task for task in CATALOGUE if task.label], ids=lambda task: task.name)
def test_every_task_finds_its_cohort(trees, task):
    cohort = find_cohort(task, trees[task.layout], task.contrasts)
    subjects = [case.subject for case in cohort.cases]
    assert len(subjects) == len(set(subjects)) >= 9
    assert all(set(task.contrasts) <= case.scans.keys() for case in cohort.cases)
    if task.kind == "classification":
        assert set(cohort.labels) == {float(k) for k in range(task.num_classes)}
    if task.kind == "survival":
        assert (cohort.labels > 0).sum() >= 5


@pytest.mark.parametrize("layout", ["brats18", "brats23", "ucsf-pdgm"])
def test_masks_are_found(trees, layout):
    assert all(case.mask is not None and case.mask.is_file() for case in read_cases(layout, trees[layout]))


def labels(trees: dict[str, Path], name: str) -> dict[str, float]:
    task = find_task(name)
    cohort = find_cohort(task, trees[task.layout], task.contrasts)
    return dict(zip((case.subject for case in cohort.cases), cohort.labels, strict=True))


def test_labels_mean_what_the_tables_say(trees):
    grade = labels(trees, "brats18-grade")
    assert len(grade) == SUBJECTS and grade["TCIA01_101"] == 1.0 and grade["TCIA00_100"] == 0.0
    pair = labels(trees, "brats23-gli-met")
    assert {name.split("-")[0] for name in pair} == {"GLI", "MET"} and pair["MET-00002"] == 1.0
    assert "00109" not in labels(trees, "rsna-mgmt"), "the organisers left it out"
    idh = labels(trees, "ucsf-idh")
    assert (idh["UCSF-PDGM-0000"], idh["UCSF-PDGM-0001"], idh["UCSF-PDGM-0003"]) == (0.0, 1.0, 1.0)
    year, two = labels(trees, "upenn-survival-1y"), labels(trees, "upenn-survival-2y")
    assert "UPENN-GBM-00005" not in year, "lost alive after 200 days: nobody knows"
    assert "UPENN-GBM-00010" not in two, "died nobody knows when"
    assert (year["UPENN-GBM-00002"], two["UPENN-GBM-00002"]) == (1.0, 0.0), "400 days"
    assert "UPENN-GBM-00006" not in labels(trees, "upenn-idh1"), "NOS/NEC is neither"
    assert labels(trees, "upenn-age")["UPENN-GBM-00001"] == 44.5
    assert len(labels(trees, "upenn-sex")) == 2 * SUBJECTS, "the follow-up is no subject"
    assert labels(trees, "tcga-pfi-1y")["TCGA-02-0000"] == 1.0
    three = labels(trees, "brats23-tumour")
    assert [three[name] for name in ("GLI-00000", "MEN-00001", "MET-00002")] == [0.0, 1.0, 2.0]
    assert labels(trees, "ucsf-os")["UCSF-PDGM-0001"] == 250.0
    survival = labels(trees, "upenn-os")
    assert survival["UPENN-GBM-00005"] == -200.0, "lost alive after 200 days"
    assert survival["UPENN-GBM-00001"] == 200.0


def test_dicom_cases_have_all_their_slices_in_order(trees):
    case = read_cases("rsna-miccai", trees["rsna-miccai"])[0]
    numbers = [int(path.stem.split("-")[1]) for path in case.scans["T1w"].slices]
    assert numbers == list(range(1, 18))


@pytest.mark.parametrize(
    ("layout", "spoil", "said"),
    [
        ("brats18", lambda root: shutil.rmtree(root / "LGG"), "no folder LGG"),
        (
            "rsna-miccai",
            lambda root: (root / "train_labels.csv").unlink(),
            "no train_labels.csv there; it holds",
        ),
        (
            "ucsf-pdgm",
            lambda root: (root / "UCSF-PDGM-metadata_v2.csv").write_text("ID,Sex\n1,M\n"),
            "no column 'Age at MRI'; it has ID, Sex",
        ),
        ("upenn-gbm", lambda root: shutil.rmtree(root / "images_structural"), "no scan of upenn-gbm"),
    ],
)
def test_what_is_missing_is_said(trees, tmp_path, layout, spoil, said):
    root = Path(shutil.copytree(trees[layout], tmp_path / "spoilt"))
    spoil(root)
    with pytest.raises(DataError, match=said) as caught:
        read_cases(layout, root)
    assert caught.value.mend and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "row", "value"),
    [
        (LabelRule(column="x", positive=("1",)), {"x": "1.0"}, 1.0),
        (LabelRule(column="x", positive=("yes",), negative=("no",)), {"x": " No "}, 0.0),
        (LabelRule(column="x", positive=("yes",), negative=("no",)), {"x": "maybe"}, None),
        (LabelRule(column="x", positive=("*",), negative=("wildtype",)), {"x": "IDH2"}, 1.0),
        (LabelRule(column="x", positive=("*",), negative=("wildtype",)), {"x": "Unknown"}, None),
        (LabelRule(column="x", above=5), {"x": "5"}, 0.0),
        (LabelRule(column="x"), {"x": "7.5"}, 7.5),
        (LabelRule(column="x"), {"x": "old"}, None),
        (LabelRule(column="x", above=5, event="e"), {"x": "3", "e": "0"}, None),
        (LabelRule(column="x", above=5, event="e"), {"x": "3", "e": "1"}, 0.0),
        (LabelRule(column="x", above=5, event="e"), {"x": "9", "e": "0"}, 1.0),
    ],
)
def test_a_rule(rule, row, value):
    assert rule.value(row) == value


def test_scenarios_follow_the_contrast_unless_a_task_says_otherwise():
    task = find_task("upenn-sex")
    found = {name: scenario_of(task, name) for name in (*task.contrasts, FUSED)}
    assert found == {
        "T1": "in-domain",
        "T1GD": "cross-modality",
        "T2": "in-domain",
        "FLAIR": "cross-modality",
        FUSED: "multi-modal",
    }


def test_a_task_of_ones_own(tmp_path, cohort):
    (tmp_path / "own.yaml").write_text(
        "name: lesions\ntitle: lesions or none\nlayout: bids\nscenario: mine\n"
        "label: {column: lesion, positive: 1}\ncontrasts: [T1w, FLAIR]\n"
    )
    task = find_task(str(tmp_path / "own.yaml"))
    found = find_cohort(task, cohort, task.contrasts)
    truth = pd.read_csv(cohort / "participants.tsv", sep="\t").set_index("participant_id")["lesion"]
    assert [truth[f"sub-{case.subject}"] for case in found.cases] == found.labels.tolist()
    assert scenario_of(task, "T1w") == "mine"


OWN_TASK = """
from mdae.tasks.record import LabelRule, Task

TASK = Task(
    name="lesions",
    title="lesions or none",
    layout="table",
    contrasts=("T1w",),
    label=LabelRule(column="lesion", above=0),
)
"""


def test_a_task_of_ones_own_in_python_with_a_csv(tmp_path, cohort):
    (tmp_path / "own.py").write_text(OWN_TASK)
    scans = sorted(cohort.rglob("*_T1w.nii.gz"))
    rows = [f"{scan},{number},T1w,{number % 2}" for number, scan in enumerate(scans)]
    (tmp_path / "own.csv").write_text("path,subject,contrast,lesion\n" + "\n".join(rows) + "\n")
    found = find_cohort(find_task(str(tmp_path / "own.py")), tmp_path / "own.csv", ("T1w",))
    assert {case.subject: label for case, label in zip(found.cases, found.labels, strict=True)} == {
        str(number): number % 2 for number in range(len(scans))
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("TASK = 3\n", "it sets no TASK"),
        ("from mdae.tasks import Task\nTASK = Task(name=3)\n", "it cannot be run"),
        (OWN_TASK.replace('("T1w",)', '"T1w"'), "contrasts is 'T1w' .write contrasts="),
        ("1 / 0\n", "it cannot be run .ZeroDivisionError"),
    ],
)
def test_a_bad_python_record_is_one_line(tmp_path, text, said):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ConfigError, match=said):
        find_task(str(tmp_path / "own.py"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "not a task: it holds no names"),
        ("name: a\n", "not a task: .*missing"),
        ("name: a\ntitle: b\nlayout: bids\ncontrasts: [T1w]\nlabel: {column: x}\n", "makes no two classes"),
        ("name: [\n", "not a task's file"),
    ],
)
def test_a_bad_record_is_one_line(tmp_path, text, said):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        find_task(str(tmp_path / "own.yaml"))
    assert "\n" not in str(caught.value)


def test_the_commands_show_them(capsys):
    main(["tasks"])
    assert "brats18-grade" in capsys.readouterr().out
    main(["tasks", "upenn-survival-1y"])
    said = capsys.readouterr().out
    assert "1 if above 365; left out if lost before" in said and "published mean of all in-domain" in said
    with pytest.raises(SystemExit) as caught:
        main(["tasks", "nothing"])
    assert caught.value.code == 2
