"""Several classes, survival, and baselines without an image: from a clinic's table to the leaderboard."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from mdae.data.preprocess import Preprocessing
from mdae.errors import ConfigError, DataError, ModelError
from mdae.evaluation.finetuning.config import FinetuneOptions
from mdae.evaluation.results.paired import SubjectDraws, compare
from mdae.evaluation.results.reader import read_results
from mdae.networks import preset
from mdae.networks.saved import SavedModel, save_model
from mdae.options import AugmentOptions
from mdae.report.leaderboard.comparison import make_leaderboard
from mdae.report.leaderboard.config import LeaderboardConfig
from mdae.report.leaderboard.text import to_markdown
from mdae.report.leaderboard.write import write_leaderboard
from mdae.seeding import torch_generator
from tests.evaluation.clinic import KINDS, NAMES, clinic, run


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return clinic(tmp_path_factory.mktemp("clinic"))


@pytest.fixture(scope="module")
def results(world, tmp_path_factory) -> Path:
    """Two encoders on three tasks."""
    out = tmp_path_factory.mktemp("results")
    for task in ("kind", "survival", "benign"):
        for encoder in ("histogram", "clinical:age,sex"):
            run(world, out, task, encoder=encoder)
    return out


def test_several_classes_are_told_and_compared_by_the_mean_auroc(results):
    cells = {cell.encoder: cell for cell in read_results([results]) if cell.task.name == "clinic-kind"}
    image, clinical = cells["histogram"], cells["clinical:age,sex"]
    assert image.predictions.shape == image.probabilities.shape == (len(NAMES), 3)
    assert np.allclose(image.probabilities.sum(axis=1), 1)
    assert image.scores["auroc"].value > 0.95 > 0.75 > clinical.scores["auroc"].value
    difference = compare(image, clinical, "auroc", SubjectDraws([image, clinical]))
    assert difference.estimate.low > 0 and difference.num_subjects == len(NAMES)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """An untrained network at a coarse spacing."""
    folder = tmp_path_factory.mktemp("model")
    network = preset("tiny").new(torch_generator(0, "weights")).eval()
    save_model(folder, SavedModel(network, Preprocessing(spacing_mm=(8.0, 8.0, 8.0)), (16, 16, 16)))
    return folder


def test_every_protocol_tells_several_classes_on_the_same_folds(world, model, tmp_path):
    out = tmp_path / "results"
    options = {"folds": 2, "finetune": FinetuneOptions(epochs=1, augment=AugmentOptions())}
    for protocol in ("linear", "knn", "finetune"):
        run(world, out, "kind", encoder=str(model), name="tiny", protocol=protocol, **options)
    cells = {cell.protocol: cell for cell in read_results([out])}
    assert set(cells) == {"linear", "knn", "finetune"}
    markdown = to_markdown(make_leaderboard(list(cells.values()), "tiny"))
    for protocol, cell in cells.items():
        assert cell.subjects.tolist() == cells["linear"].subjects.tolist() and not cell.refused
        assert set(cell.scores) == {"auroc", "balanced_accuracy", "brier"}
        assert cell.predictions.shape == (len(NAMES), 3) and np.allclose(cell.probabilities.sum(axis=1), 1)
        assert cell.scores["auroc"].value > 0.8, protocol
        rows = confusion_matrix(cell.labels, cell.predictions.argmax(axis=1)).tolist()
        for name, counts in zip(KINDS, rows, strict=True):
            line = f"| tiny (baseline) | {name} | {' | '.join(map(str, counts))} |"
            assert line in markdown.split(f"## {protocol}\n")[1].split("\n## ")[0]


def test_survival_is_scored_by_concordance(results):
    cells = {cell.encoder: cell for cell in read_results([results]) if cell.task.name == "clinic-survival"}
    image = cells["histogram"]
    assert list(image.scores) == ["concordance"] and image.group == "survival"
    assert (image.labels < 0).sum() == sum(number % 5 == 0 for number in range(len(NAMES)))
    assert image.scores["concordance"].value > 0.75 > cells["clinical:age,sex"].scores["concordance"].value


@pytest.mark.parametrize(
    ("task", "changes", "said"),
    [
        ("survival", {"protocol": "finetune"}, "survival, and fine-tuning .*--protocol linear"),
        ("survival", {"protocol": "knn"}, "nearest neighbours tell classes .*--protocol linear"),
        ("benign", {"encoder": "clinical:"}, "clinical without columns"),
        ("benign", {"encoder": "clinical:kind"}, "'kind' is what is to be told"),
        ("survival", {"encoder": "clinical:died"}, "'died' is what is to be told"),
        ("benign", {"encoder": "clinical:grade"}, "no column 'grade'; it has path"),
        ("benign", {"encoder": "clinical:subject"}, "27 words"),
        ("benign", {"encoder": "clinical:age", "protocol": "finetune"}, "has no network"),
        ("benign", {"encoder": "cnn", "protocol": "linear"}, "learns from labels alone"),
        ("benign", {"encoder": "cnn:x"}, "no config.json and model.safetensors"),
        ("benign", {"encoder": ""}, "neither --encoder nor --features"),
        ("benign", {"features": Path("x.csv")}, "both --encoder and --features"),
    ],
)
def test_what_cannot_be_done_is_one_line(world, tmp_path, task, changes, said):
    with pytest.raises((ConfigError, DataError, ModelError), match=said):
        run(world, tmp_path, task, **changes)


def test_a_split_that_is_given_holds_for_classes_survival_and_clinic(world, tmp_path):
    parts = ["train" if number % 9 < 3 else "test" for number in range(len(NAMES))]
    split = tmp_path / "split.csv"
    pd.DataFrame({"subject": NAMES, "split": parts}).to_csv(split, index=False)
    for task in ("kind", "survival"):
        for encoder in ("histogram", "clinical:age"):
            (result,) = run(world, tmp_path, task, encoder=encoder, split=split).results
            assert not result.refused and len(result.subjects) == parts.count("test")


def test_several_cases_of_a_person_are_told_to_the_leaderboard(world, tmp_path):
    whose = [f"p{number // 3:02d}" for number in range(len(NAMES))]
    table = tmp_path / "people.csv"
    pd.DataFrame({"scan": [f"{name}_T1w" for name in NAMES], "subject": whose}).to_csv(table, index=False)
    (alone,) = run(world, tmp_path / "alone", "benign").results
    (result,) = run(world, tmp_path / "people", "benign", subjects=table).results
    assert alone.people == [] and dict(zip(result.subjects, result.people, strict=True)) == {
        name: person for name, person in zip(NAMES, whose, strict=True) if name in result.subjects
    }
    (cell,) = read_results([tmp_path / "people"])
    assert cell.people.tolist() == result.people


def test_features_of_a_table_are_judged_as_those_of_an_encoder(world, tmp_path):
    from mdae.evaluation.features.histogram import Histogram

    paths = [world / "scans" / f"{name}_T1w.nii.gz" for name in NAMES]
    columns = [f"feature_{i}" for i in range(len(Histogram().embed(paths[0])))]
    table = pd.DataFrame([Histogram().embed(path) for path in paths], columns=columns)
    table.assign(subject=NAMES).to_csv(tmp_path / "mine.csv", index=False)
    found = run(world, tmp_path, "benign", encoder="", features=tmp_path / "mine.csv")
    expected = run(world, tmp_path, "benign")
    assert found.encoder == "mine" and found.exposure.mark == "unknown"
    assert found.results[0].scores["auroc"] == expected.results[0].scores["auroc"]
    assert found.results[0].predictions == pytest.approx(expected.results[0].predictions, rel=1e-3, abs=1e-3)


def test_the_leaderboard_shows_groups_calibration_and_what_each_baseline_is(results, tmp_path):
    page = write_leaderboard(
        LeaderboardConfig(results=(results,), baseline="histogram", out=tmp_path)
    ).read_text()
    assert (
        "taken for meningioma" in page
        and "clinical:age,sex (no image)" in page
        and "Calibration: of subjects" in page
    )
    assert "best to worst" in page and "male" in page and "40 to 59" in page and "Heidelberg" in page
    rows = list(csv.DictReader((tmp_path / "fairness.csv").read_text().splitlines()))
    assert list(rows[0]) == [
        *("task", "protocol", "modality", "encoder", "attribute", "group", "num_subjects", "metric"),
        *("value", "low", "high", "gap", "gap_low", "gap_high", "refused"),
    ]
    wanted = ("clinic-survival", "histogram", "sex")
    survival = [row for row in rows if (row["task"], row["encoder"], row["attribute"]) == wanted]
    assert [row["group"] for row in survival] == ["female", "male", ""]
    by_group = {row["group"]: float(row["value"]) for row in survival[:2]}
    assert float(survival[2]["gap"]) == pytest.approx(abs(by_group["female"] - by_group["male"]))
    assert sum(int(row["num_subjects"]) for row in survival[:2]) == len(NAMES)
    few = [row for row in rows if row["refused"]]
    assert few and all("are wanted" in row["refused"] and not row["value"] for row in few)


def test_a_result_is_not_lost_to_one_without_figures(world, tmp_path, caplog):
    first = run(world, tmp_path, "benign")
    (path,) = tmp_path.glob("*.json")
    text = path.read_text()
    refused = run(world, tmp_path, "benign", folds=20)
    assert first.results[0].scores and refused.results[0].refused
    assert path.read_text() == text and "kept as it is" in caplog.text
    run(world, tmp_path, "benign", seed=1)
    assert path.read_text() != text and "replaces that of other seed; --name keeps both" in caplog.text


def test_a_key_beside_the_label_is_not_one_of_it(world, tmp_path):
    (world / "wrong.yaml").write_text(
        "name: w\ntitle: w\nlayout: table\nmodalities: [T1w]\nlabel: {column: days, kind: regression}\n"
    )
    with pytest.raises(
        ConfigError, match=r"wrong.yaml: not a task: 'kind' stands in its label \(write it beside"
    ):
        run(world, tmp_path, "wrong")
    (world / "wrong.yaml").write_text(
        "name: w\ntitle: w\nlayout: table\nmodalities: [T1w]\nlable: {column: days}\n"
    )
    with pytest.raises(ConfigError, match="unknown 'lable'; there are access, cohort, contrasts"):
        run(world, tmp_path, "wrong")
