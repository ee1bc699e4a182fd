"""Curves of whole scans: their end is the figure of all subjects, draws are shared, and too few are refused."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pandas as pd
import pytest

from mdae.errors import ConfigError, DataError
from mdae.evaluation import label_curve
from mdae.evaluation.draws import training_draw
from mdae.evaluation.results.reader import read_results
from mdae.evaluation.results.schema import results_table
from mdae.report.leaderboard.comparison import make_leaderboard
from mdae.report.leaderboard.curves import curves_frame
from tests.evaluation.clinic import NAMES, clinic, run

SIZES = ("3", "9", "all")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return clinic(tmp_path_factory.mktemp("clinic"))


@pytest.mark.parametrize(
    ("task", "metric"), [("kind", "auroc"), ("benign", "auroc"), ("survival", "concordance")]
)
def test_all_subjects_give_the_figure_of_the_result(root, tmp_path, task, metric):
    evaluation = run(root, tmp_path, task, train_sizes=SIZES, draws=2)
    (result,) = evaluation.results
    assert re.search(
        rf"T1w, {metric} by subjects learned from: [\d.]+ after 3, [\d.]+ after 9, [\d.]+ after 18",
        str(results_table(evaluation).caption),
    )
    assert [point.size for point in result.curve] == [3, 9, 18], "of 27, two thirds are learned from"
    assert [len(point.values[metric]) for point in result.curve] == [2, 2, 1]
    last, whole = result.curve[-1].scores[metric], result.scores[metric]
    assert last.value == pytest.approx(whole.value, abs=0.02), "exact of an AUROC, nearly of concordance"
    assert result.curve[0].scores[metric].value <= last.value


def test_numbers_have_one_too(root, tmp_path):
    (root / "days.yaml").write_text(
        "name: clinic-days\ntitle: days\nlayout: table\nkind: regression\ncontrasts: [T1w]\nlabel: {column: days}\n"
    )
    (result,) = run(root, tmp_path, "days", train_sizes=SIZES, draws=2).results
    first, _, last = (point.scores["mae"] for point in result.curve)
    assert last.value == pytest.approx(result.scores["mae"].value) and first.value > last.value > 0
    assert last.low > 0 and last.high > last.value


def test_a_split_is_learned_from_in_part(root, tmp_path, monkeypatch):
    parts = ["train"] * 12 + ["test"] * 15
    pd.DataFrame({"subject": NAMES, "split": parts}).to_csv(tmp_path / "split.csv", index=False)
    fitted, plain = [], label_curve.hold_out

    def watched(protocol, features, labels, subjects, given, seed):
        fitted.append(set(subjects[given == "train"]))
        assert set(given) == {"train", "test", ""}
        return plain(protocol, features, labels, subjects, given, seed)

    monkeypatch.setattr(label_curve, "hold_out", watched)
    options = {"split": tmp_path / "split.csv", "train_sizes": ("2", "4", "all"), "draws": 2}
    (result,) = run(root, tmp_path / "out", "benign", **options).results
    assert [point.size for point in result.curve] == [2, 4, 12]
    assert [len(own) for own in fitted] == [2, 2, 4, 4] and fitted[0] < fitted[2] and fitted[1] < fitted[3]
    assert result.curve[-1].scores["auroc"].value == pytest.approx(result.scores["auroc"].value)


def test_encoders_learn_from_the_same_subjects_and_are_compared(root, tmp_path):
    for encoder in ("histogram", "clinical:Sex"):
        run(root, tmp_path, "benign", encoder=encoder, train_sizes=SIZES, draws=2)
    cells = read_results([tmp_path])
    table = curves_frame(make_leaderboard(cells, "histogram"))
    assert set(table.labelled_subjects) == {3, 9, 18} and set(table.metric) == {"auroc"}
    other = table[table.encoder != "histogram"]
    assert other.difference.notna().all() and (other.difference_low <= other.difference).all()


def test_each_draw_holds_every_class_and_then_their_shares():
    groups = np.array([0] * 90 + [1] * 10)
    names = np.array([f"ADNI-{n:03d}" for n in range(100)])
    for size, number in itertools.product(("2", "20", "50"), range(5)):
        draw = training_draw(np.arange(100), names, size, number, 0, groups=groups)
        rare = groups[draw.rows].sum()
        assert rare == 1 if draw.size == 2 else abs(rare - draw.size / 10) <= 1


@pytest.mark.parametrize(
    ("task", "options", "error", "words"),
    [
        ("kind", {"train_sizes": ("2",)}, ConfigError, "give 3 and more"),
        ("benign", {"train_sizes": ("1", "8")}, ConfigError, "--train-sizes 1, to learn clinic-benign from"),
        (
            "benign",
            {"train_sizes": ("8",), "protocol": "finetune"},
            ConfigError,
            "use --protocol linear or knn",
        ),
        (
            "benign",
            {"train_sizes": ("50",)},
            DataError,
            "50 subjects to learn from are wanted, and there are 18",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_refused(root, tmp_path, task, options, error, words):
    with pytest.raises(error) as raised:
        run(root, tmp_path, task, **options)
    assert words in str(raised.value)
