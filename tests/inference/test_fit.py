"""What is fitted is what scikit-learn fits on the same features; labels are read as what they are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mdae
from mdae.data.tables import read_table
from mdae.errors import DataError
from mdae.evaluation.probing.cross_validation import choose, cross_validate, folds_by_subject
from mdae.evaluation.probing.estimators import LINEAR
from mdae.evaluation.probing.probe import feature_matrix
from mdae.evaluation.statistics.intervals import cross_validation_widening
from mdae.evaluation.statistics.scores import classification_scores
from mdae.inference.fit import fit
from mdae.inference.load import load_fitted
from mdae.seeding import key
from tests.inference.small import config, write_tables


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    write_tables(folder)
    return folder


def joined(folder, label):
    features = read_table(folder / "features.csv").merge(read_table(folder / "labels.csv"), on="subject")
    return feature_matrix(features), features[label], features["subject"].to_numpy()


class Passing(ClassifierMixin, BaseEstimator):
    """A fitted classifier of two classes whose scores are its one feature."""

    classes_ = np.array([0, 1])

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, x, y):
        return self

    def predict(self, x):
        return (x[:, 0] > 0).astype(int)

    def decision_function(self, x):
        return x[:, 0]


@pytest.mark.parametrize("label", ["diagnosis", "stage"])
def test_classes_and_probabilities_equal_scikit_learns(folder, label):
    model = load_fitted(fit(config(folder, label)).folder)
    x, values, subjects = joined(folder, label)
    y = values.map({name: i for i, name in enumerate(sorted(values.unique()))}).to_numpy()
    splits = list(folds_by_subject(y, subjects, 3, key(0, "calibration") % 2**32))
    strength = model.about["chosen"]["strength"]

    def logistic(strength: float):
        line = LogisticRegression(C=strength, max_iter=2000, class_weight="balanced")
        return make_pipeline(StandardScaler(), line)

    whole = logistic(strength).fit(x, y)
    known = np.zeros((len(y), len(model.head.classes)) if label == "stage" else len(y))
    for train, test in splits:
        part = logistic(strength * len(y) / len(train)).fit(x[train], y[train])
        known[test] = part.decision_function(x[test])

    def calibrated(known: np.ndarray, scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
        """What scikit-learn's Platt scaling, which takes scores for features of a line of its own, makes of them."""
        own = CalibratedClassifierCV(FrozenEstimator(Passing()), method="sigmoid", ensemble=False)
        return own.fit(known[:, None], positive).predict_proba(scores[:, None])[:, 1]

    scores = whole.decision_function(x)
    if label == "diagnosis":
        own = calibrated(known, scores, y)
        wanted = np.stack([1 - own, own], axis=1)
    else:
        own = np.stack([calibrated(known[:, k], scores[:, k], y == k) for k in range(3)], axis=1)
        wanted = own / own.sum(axis=1, keepdims=True)
    rows = [one.row() for one in model.predict_features(x)]
    said = np.array([[row[f"probability_{name}"] for name in model.head.classes] for row in rows])
    np.testing.assert_allclose(said, wanted, atol=2e-4)
    assert [row["class"] for row in rows] == [model.head.classes[i] for i in whole.predict(x)]
    assert np.mean([row["class"] == value for row, value in zip(rows, values, strict=True)]) > 0.65


def test_numbers_equal_scikit_learns_and_their_range_holds_most(folder):
    model = load_fitted(fit(config(folder, "age")).folder)
    x, values, _ = joined(folder, "age")
    ridge = make_pipeline(StandardScaler(), Ridge(alpha=1 / model.about["chosen"]["strength"])).fit(x, values)
    rows = [one.row() for one in model.predict_features(x)]
    np.testing.assert_allclose([row["prediction"] for row in rows], ridge.predict(x), rtol=1e-12)
    held = np.mean([row["low"] <= value <= row["high"] for row, value in zip(rows, values, strict=True)])
    assert 0.93 <= held <= 1 and model.kind == "regression"


def test_the_choice_and_the_expected_performance_are_those_of_evaluate(folder):
    model = fit(config(folder, "diagnosis"))
    x, values, subjects = joined(folder, "diagnosis")
    y = (values == "patient").to_numpy().astype(int)
    assert model.about["chosen"]["strength"] == choose(LINEAR, x, y, subjects, 0)
    scored = cross_validate(LINEAR, x, y, subjects, folds=3, repeats=1, seed=0)
    widening = cross_validation_widening(3)
    wanted = classification_scores(y, scored.scores, scored.probabilities, subjects, widening=widening)
    figures = {name: figure.to_dict() for name, figure in wanted.items()}
    assert model.expected == {n: own for n, own in figures.items() if n not in ("brier", "calibration_error")}


def test_risks_order_times_and_survival_falls_with_risk(folder):
    model = load_fitted(fit(config(folder, "months", event="died")).folder)
    x, _, _ = joined(folder, "months")
    rows = pd.DataFrame([one.row() for one in model.predict_features(x)])
    share = next(name for name in rows if name.startswith("survival_at_"))
    assert model.kind == "survival" and model.expected["concordance"]["value"] > 0.6
    assert rows["risk"].corr(rows[share], method="spearman") < -0.99 and rows[share].between(0, 1).all()


def test_labels_are_read_as_what_they_are(folder, tmp_path):
    labels = read_table(folder / "labels.csv")
    for name, values, kind in (
        ("grade", labels.index % 3 + 1, "classification"),
        ("score", labels.index % 30, "regression"),
        ("share", labels.index / 7, "regression"),
    ):
        labels.assign(**{name: values})[["subject", name]].to_csv(folder / "other.csv", index=False)
        made = config(folder, "", labels=folder / "other.csv", out=tmp_path / name)
        assert fit(made).kind == kind  # and no --label: the table leaves no choice
    asked = config(folder, "share", labels=folder / "other.csv", out=tmp_path / "o", kind="classification")
    with pytest.raises(DataError, match="classes are 2 to 20"):
        fit(asked)


def test_one_value_may_be_told_from_all_others(folder, tmp_path):
    model = fit(config(folder, "stage", positive="II", out=tmp_path / "out"))
    assert model.head.classes == ("not II", "II")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.assign(dx="one"), "1 values .one."),
        (
            lambda t: t.assign(dx=["a", "b"] * 3 + ["b"] * (len(t) - 6)),
            "3 subjects of class a, and 5 are wanted",
        ),
        (lambda t: t.assign(dx=[1.5] * 3 + [None] * (len(t) - 3)), "1 values .1.5."),
        (lambda t: t.assign(dx="x").head(0), "no"),
        (lambda t: t.assign(dx="x", subject="nobody"), "more than one row|no subject in common"),
        (lambda t: t, "columns could be the label"),
    ],
)
def test_bad_labels_have_their_line(folder, tmp_path, change, said):
    table = change(read_table(folder / "labels.csv"))
    table.to_csv(tmp_path / "bad.csv", index=False)
    label = "dx" if "dx" in table else ""
    with pytest.raises(DataError, match=said):
        fit(config(folder, label, labels=tmp_path / "bad.csv", out=tmp_path / "out"))


def test_survival_needs_times_and_events(folder, tmp_path):
    labels = read_table(folder / "labels.csv")
    for change, said in (({"died": 2}, "died is '2'"), ({"months": -1.0}, "months is '-1.0'")):
        labels.assign(**change).to_csv(tmp_path / "bad.csv", index=False)
        with pytest.raises(DataError, match=said):
            fit(config(folder, "months", event="died", labels=tmp_path / "bad.csv"))
    with pytest.raises(DataError, match="without --event"):
        fit(config(folder, "months", kind="survival"))


def test_the_python_call_is_the_command(folder, tmp_path):
    model = mdae.fit(
        folder / "features.csv", folder / "labels.csv", tmp_path / "m", label="stage", repeats=1, folds=3
    )
    again = mdae.load_fitted(tmp_path / "m")
    x, _, _ = joined(folder, "stage")
    assert [a.row() for a in model.predict_features(x[:5])] == [
        a.row() for a in again.predict_features(x[:5])
    ]
