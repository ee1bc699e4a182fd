"""Probes: a known effect is found, a null effect is not, nobody is on both sides, and bad tables have their line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdae.errors import ConfigError, DataError
from mdae.evaluation.configs import ProbeConfig
from mdae.evaluation.probing.cross_validation import cross_validate, folds_by_subject
from mdae.evaluation.probing.estimators import LINEAR
from mdae.evaluation.probing.probe import probe, results_table
from mdae.evaluation.statistics.intervals import auroc, cross_validation_widening
from mdae.seeding import numpy_generator


def tables(folder: Path, *, effect: float = 1.5, scans: int = 2, **columns: object) -> tuple[Path, Path]:
    """Features of 40 subjects with some scans each, and their labels in BIDS manner."""
    rng = numpy_generator(0, "tables")
    subjects = [f"{i:03d}" for i in range(40)]
    rows = [(f"sub-{s}_run-{r}", s, "", "T1w", "", "slide") for s in subjects for r in range(scans)]
    features = pd.DataFrame(rows, columns=["scan", "subject", "session", "contrast", "path", "window"])
    lesion = np.arange(40) % 2
    values = rng.standard_normal((len(rows), 6)) + effect * np.repeat(lesion, scans)[:, None]
    for i in range(6):
        features[f"f{i:04d}"] = values[:, i]
    labels = pd.DataFrame({"participant_id": [f"sub-{s}" for s in subjects], "lesion": lesion, **columns})
    features.to_parquet(folder / "features.parquet")
    labels.to_csv(folder / "labels.tsv", sep="\t", index=False)
    return folder / "features.parquet", folder / "labels.tsv"


def config(folder: Path, label: str = "lesion", **changes: object) -> ProbeConfig:
    options = {"repeats": 2, **changes}
    return ProbeConfig(
        features=folder / "features.parquet", labels=folder / "labels.tsv", label=label, **options
    )  # type: ignore[arg-type]


def test_an_effect_is_found_and_written_down(tmp_path):
    tables(tmp_path)
    (result,) = probe(config(tmp_path, out=tmp_path / "result.json"))
    assert result.scores["auroc"].low > 0.8 and (
        result.num_subjects,
        result.num_scans,
        result.num_positive,
    ) == (
        40,
        80,
        40,
    )
    written = json.loads((tmp_path / "result.json").read_text())
    assert written[0]["auroc"]["value"] == result.scores["auroc"].value and written[0]["positive"] == "1"
    assert written[0]["prevalence"] == 0.5
    assert results_table([result]).row_count == 1


def null_scores(repeat: int, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, cross-validated scores and subjects where features are noise."""
    rng = numpy_generator(repeat, "null")
    labels, subjects = (np.arange(60) < 60 * share).astype(int), np.arange(60)
    scores = cross_validate(
        LINEAR, rng.standard_normal((60, 8)), labels, subjects, repeats=1, seed=repeat
    ).scores
    return labels, scores, subjects


@pytest.mark.slow  # benchmarks/coverage.py does it for hundreds
def test_no_effect_is_reported_as_none():
    """Over repetitions, the interval of pure noise holds 0.5 as often as it should; unwidened it held 80 %."""
    found = [auroc(*null_scores(repeat, 0.5)).widened(cross_validation_widening(5)) for repeat in range(12)]
    assert sum(e.low <= 0.5 <= e.high for e in found) >= 11


def test_scores_of_several_folds_are_on_one_scale():
    """With noise and unequal classes the mean AUROC is 0.5; unbalanced fits fall below it."""
    values = [auroc(*null_scores(repeat, 0.3)).value for repeat in range(20)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.03)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(12, 40))
def test_nobody_is_on_both_sides(seed, number):
    rng = numpy_generator(seed, "folds")
    subjects = rng.integers(0, number // 2, number)
    labels = (subjects % 2).astype(int)
    for train, test in folds_by_subject(labels, subjects, 3, seed):
        assert not set(subjects[train]) & set(subjects[test])
        assert sorted([*train, *test]) == list(range(number))


def test_a_subjects_other_scans_do_not_help():
    """Features that name the subject but not the label: with leakage across scans the AUROC would be near 1."""
    rng = numpy_generator(0, "leak")
    identity = np.repeat(rng.standard_normal((30, 20)), 4, axis=0)
    labels, subjects = np.repeat(np.arange(30) % 2, 4), np.repeat(np.arange(30), 4)
    scores = cross_validate(LINEAR, identity, labels, subjects, repeats=2).scores
    assert auroc(labels, scores, subjects).value < 0.75


def test_a_given_split_is_kept(tmp_path):
    tables(tmp_path, split=["train"] * 16 + ["val"] * 10 + ["test"] * 14)
    (result,) = probe(config(tmp_path))
    assert result.num_subjects == 14 and "test rows scored once" in result.selection


def test_text_labels_are_taken(tmp_path):
    tables(tmp_path, kind=["healthy", "tumour"] * 20)
    assert probe(config(tmp_path, "kind"))[0].positive == "tumour"


@pytest.mark.parametrize(
    ("label", "columns", "said"),
    [
        ("nothing", {}, "no column 'nothing'; it has participant_id, lesion"),
        ("grade", {"grade": [f"g{i}" for i in range(40)]}, "has 40 values"),
        ("same", {"same": ["a"] * 40}, r"has 1 values \(a\)"),
        ("rare", {"rare": [1] * 3 + [0] * 37}, "class 1 has 3 subjects"),
        ("lesion", {"split": ["left"] * 40}, "column split holds left"),
        ("lesion", {"split": [None] * 10 + ["train", "test"] * 15}, "column split holds blank, test, train"),
        ("lesion", {"split": ["train", "test"] * 20}, "its train rows hold nobody of class 1"),
        (
            "lesion",
            {"split": ["train"] * 15 + ["val"] + ["test"] * 24},
            "its val rows hold nobody of class 0",
        ),
        ("session", {"session": ["a", "b"] * 20}, "'session' is in the features table as well"),
    ],
)
def test_labels_that_do_not_do_have_one_line(tmp_path, label, columns, said):
    tables(tmp_path, **columns)
    with pytest.raises(DataError, match=said):
        probe(config(tmp_path, label))


def test_tables_that_do_not_do_have_one_line(tmp_path):
    _, labels = tables(tmp_path)
    pd.DataFrame({"colour": ["a"], "lesion": [1]}).to_csv(labels, sep="\t", index=False)
    with pytest.raises(DataError, match="no column to join by; it has colour, lesion"):
        probe(config(tmp_path))
    pd.DataFrame({"subject": ["zz"], "lesion": [1]}).to_csv(labels, sep="\t", index=False)
    with pytest.raises(DataError, match="no subject in common"):
        probe(config(tmp_path))
    with pytest.raises(DataError, match="no column scan, contrast"):
        probe(ProbeConfig(features=labels, labels=labels, label="lesion"))
    labels.unlink()
    with pytest.raises(DataError, match="no such table"):
        probe(config(tmp_path))


def test_features_that_are_not_finite_have_one_line(tmp_path):
    features, _ = tables(tmp_path)
    table = pd.read_parquet(features)
    table.loc[3, "f0002"] = np.nan
    table.to_parquet(features)
    with pytest.raises(DataError, match="1 scan has features that are NaN"):
        probe(config(tmp_path))


def test_a_subject_in_two_splits_is_refused(tmp_path):
    features, labels = tables(tmp_path)
    scans = pd.read_parquet(features)["scan"]
    table = pd.DataFrame({"scan": scans, "lesion": [0, 0, 1, 1] * 20, "split": ["train", "test"] * 40})
    table.to_csv(labels, sep="\t", index=False)
    with pytest.raises(DataError, match="more than one split"):
        probe(config(tmp_path))


# -- what else a label may be -------------------------------------------------------------------------------------


def many(
    folder: Path, label: list, *, contrasts: tuple[str, ...] = ("T1w",), sessions: int = 1, **columns: object
) -> None:
    """Features of names as archives have them; of the first contrast, the first follows the subject's number mod 3."""
    rng = numpy_generator(1, "many")
    number = np.arange(len(label)) % 3
    rows = []
    for i in range(len(label)):
        for session in range(sessions):
            for j, contrast in enumerate(contrasts):
                values = rng.standard_normal(4) + (2.0 * number[i] * (np.arange(4) == 0) if j == 0 else 0)
                name = f"ADNI{i:03d}S{i:04d}"
                rows.append((f"{name}_{session}_{contrast}", name, f"M{6 * session:02d}", contrast, *values))
    names = ["scan", "subject", "session", "contrast", *(f"f{k:04d}" for k in range(4))]
    pd.DataFrame(rows, columns=names).to_parquet(folder / "features.parquet")
    own = [f"ADNI_{i:03d}_S_{i:04d}" for i in range(len(label))]
    labels = pd.DataFrame({"Patient ID": own, "grade": label, **columns})
    labels.to_csv(folder / "labels.tsv", sep="\t", index=False, na_rep="None")


def test_three_classes_are_three_whatever_one_is_called(tmp_path, caplog):
    many(tmp_path, [("II", "None", "IV")[i % 3] for i in range(48)])
    (result,) = probe(config(tmp_path, "grade", folds=3, out=tmp_path / "r.json"))
    assert result.classes == ("II", "IV", "None") and result.counts == {"II": 16, "IV": 16, "None": 16}
    assert result.scores["auroc"].low > 0.6 and np.sum(result.confusion) == 48
    assert np.trace(result.confusion) > 24 and [sum(row) for row in result.confusion] == [16, 16, 16]
    assert "by letters and digits alone" in caplog.text
    written = json.loads((tmp_path / "r.json").read_text())[0]
    assert written["classes"] == ["II", "IV", "None"] and written["notes"] and "positive" not in written
    assert "taken for II, IV, None" in str(results_table([result]).caption)


def test_words_that_the_user_calls_missing_make_two_classes_and_that_is_told(tmp_path, caplog):
    many(tmp_path, [("II", "None", "IV")[i % 3] for i in range(48)])
    (result,) = probe(config(tmp_path, "grade", folds=3, missing=("None",)))
    assert result.classes == ("II", "IV")
    assert "16 rows say 'None' (16), which is taken for no label" in caplog.text


@pytest.mark.parametrize("positive", ["None", "IV"])
def test_one_class_is_told_from_all_others(tmp_path, positive):
    many(tmp_path, [("II", "None", "IV")[i % 3] for i in range(48)])
    (result,) = probe(config(tmp_path, "grade", folds=3, positive=positive))
    assert result.positive == positive and result.num_positive == 16
    assert result.classes[0] == f"not {positive}"


def test_the_positive_class_is_chosen_and_must_be_there(tmp_path):
    tables(tmp_path)
    later, earlier = (probe(config(tmp_path, positive=value))[0] for value in ("1", "0.0"))
    assert (later.positive, earlier.positive) == ("1", "0")
    assert earlier.scores["auroc"].value == pytest.approx(later.scores["auroc"].value, abs=0.02)
    with pytest.raises(DataError, match="nobody's 'lesion' is 'yes'; it holds 0, 1"):
        probe(config(tmp_path, positive="yes"))


def test_numbers_are_a_regression(tmp_path, caplog):
    ages = [f"{50 + 10 * (i % 3) + i / 50:.2f}".replace(".", ",") for i in range(48)]
    many(tmp_path, [*ages[:-1], "NA"])
    (result,) = probe(config(tmp_path, "grade", folds=3))
    assert result.classes == () and result.scores.keys() == {"mae", "r2", "pearson_r"}
    assert result.scores["pearson_r"].low > 0.6 and result.scores["mae"].value < 5 and result.num_scans == 47
    assert "1 rows say 'NA' (1), which is taken for no label" in caplog.text
    headers = [str(column.header) for column in results_table([result]).columns]
    assert headers[3:] == ["MAE [95 %]", "R2 [95 %]", "r [95 %]"]


def test_few_whole_numbers_are_classes_unless_they_are_said_to_be_numbers(tmp_path):
    many(tmp_path, [i % 3 for i in range(48)])
    assert probe(config(tmp_path, "grade", folds=3))[0].classes == ("0", "1", "2")
    assert probe(config(tmp_path, "grade", folds=3, kind="regression"))[0].classes == ()
    with pytest.raises(ConfigError, match="--positive of a number"):
        config(tmp_path, "grade", kind="regression", positive="1")
    many(tmp_path, [("a", "b")[i % 2] for i in range(48)])
    with pytest.raises(DataError, match="'a', which is no number"):
        probe(config(tmp_path, "grade", kind="regression"))


def test_several_contrasts_are_seen_side_by_side(tmp_path, caplog):
    many(tmp_path, [("no", "yes", "yes")[i % 3] for i in range(45)], contrasts=("FLAIR", "T1w"), sessions=2)
    table = pd.read_parquet(tmp_path / "features.parquet").drop(index=[0])
    table.to_parquet(tmp_path / "features.parquet")
    flair, t1w, both = probe(config(tmp_path, "grade", folds=3))
    assert [r.contrast for r in (flair, t1w, both)] == ["FLAIR", "T1w", "all"]
    assert (flair.num_scans, t1w.num_scans, both.num_scans) == (89, 90, 89)
    assert both.scores["auroc"].value > 0.8 and t1w.scores["auroc"].value < 0.75
    assert both.notes[-1] == "all: 1 sessions without every contrast are left out"


def test_a_contrast_with_too_few_subjects_is_refused_and_the_others_are_not(tmp_path):
    many(tmp_path, [("no", "yes", "yes")[i % 3] for i in range(45)], contrasts=("FLAIR", "T1w"))
    table = pd.read_parquet(tmp_path / "features.parquet")
    table[(table["contrast"] == "FLAIR") | (table.index < 12)].to_parquet(tmp_path / "features.parquet")
    flair, t1w, both = probe(config(tmp_path, "grade", folds=3))
    assert (
        flair.scores
        and "class no has 2 subjects" in t1w.refused
        and "class no has 2 subjects" in both.refused
    )
    assert results_table([flair, t1w, both]).row_count == 3


def test_labels_that_change_between_visits_are_scored_by_visit_and_told(tmp_path):
    many(tmp_path, ["no"] * 48, sessions=2)
    rows = [
        (f"ADNI{i:03d}S{i:04d}", visit, "yes" if i % 3 and (i % 3 == 2 or visit == "m06") else "no")
        for i in range(48)
        for visit in ("m00", "m06")
    ]
    labels = pd.DataFrame(rows, columns=["PatientID", "Visit", "grade"])
    labels.to_csv(tmp_path / "labels.tsv", sep="\t", index=False)
    (result,) = probe(config(tmp_path, "grade", folds=3))
    assert (result.num_subjects, result.num_scans, result.num_positive, result.num_changing) == (
        48,
        96,
        48,
        16,
    )
    assert "16 subjects change between classes" in str(results_table([result]).caption)
    labels.drop(columns="Visit").to_csv(tmp_path / "labels.tsv", sep="\t", index=False)
    (result,) = probe(config(tmp_path, "grade", folds=3))
    assert result.num_subjects == 32 and result.num_changing == 0
    assert any("are left out, for their rows contradict each other" in note for note in result.notes)
