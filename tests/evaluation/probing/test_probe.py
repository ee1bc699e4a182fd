"""Probes: a known effect is found, a null effect is not, nobody is on both sides, and bad tables have their line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdae.errors import DataError
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
    assert result.auroc.low > 0.8 and (result.num_subjects, result.num_scans, result.num_positive) == (
        40,
        80,
        40,
    )
    written = json.loads((tmp_path / "result.json").read_text())
    assert written[0]["auroc"]["value"] == result.auroc.value and written[0]["positive"] == "1"
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


def test_no_effect_is_reported_as_none():
    """Over repetitions, the interval of pure noise holds 0.5 as often as it should; unwidened it held 80 %."""
    found = [auroc(*null_scores(repeat, 0.5)).widened(cross_validation_widening(5)) for repeat in range(40)]
    assert sum(e.low <= 0.5 <= e.high for e in found) >= 37


def test_scores_of_several_folds_are_on_one_scale():
    """With noise and unequal classes the mean AUROC is 0.5; unbalanced fits fall below it."""
    values = [auroc(*null_scores(repeat, 0.3)).value for repeat in range(40)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.02)


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
        ("grade", {"grade": list(range(40))}, "has 40 values"),
        ("rare", {"rare": [1] * 3 + [0] * 37}, "a class has 3 subjects"),
        ("lesion", {"split": ["left"] * 40}, "column split holds left"),
        ("lesion", {"split": [None] * 10 + ["train", "test"] * 15}, "column split holds nan, test, train"),
        ("lesion", {"split": ["train", "test"] * 20}, "its train rows hold one class only"),
        ("lesion", {"split": ["train"] * 15 + ["val"] + ["test"] * 24}, "its val rows hold one class only"),
        ("session", {"session": ["a", "b"] * 20}, "'session' is in the features table as well"),
    ],
)
def test_labels_that_do_not_do_have_one_line(tmp_path, label, columns, said):
    tables(tmp_path, **columns)
    with pytest.raises(DataError, match=said):
        probe(config(tmp_path, label))


def test_tables_that_do_not_do_have_one_line(tmp_path):
    _, labels = tables(tmp_path)
    pd.DataFrame({"patient": ["a"], "lesion": [1]}).to_csv(labels, sep="\t", index=False)
    with pytest.raises(DataError, match="no column to join by; it has patient, lesion"):
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
    with pytest.raises(DataError, match="1 scans have features that are NaN"):
        probe(config(tmp_path))


def test_a_subject_in_two_splits_is_refused(tmp_path):
    features, labels = tables(tmp_path)
    scans = pd.read_parquet(features)["scan"]
    table = pd.DataFrame({"scan": scans, "lesion": [0, 0, 1, 1] * 20, "split": ["train", "test"] * 40})
    table.to_csv(labels, sep="\t", index=False)
    with pytest.raises(DataError, match="more than one split"):
        probe(config(tmp_path))
