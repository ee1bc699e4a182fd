"""`mdae evaluate`: nobody on both sides, the test opened once, effects found and nothing found where nothing is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdae.cli import main
from mdae.data.preprocess import Preprocessing
from mdae.data.synth import SynthConfig, synthesise
from mdae.errors import ConfigError, DataError
from mdae.evaluation import whole_scans
from mdae.evaluation.cohort import COPIES, Cohort, copies, find_cohort, split_parts
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.evaluate import evaluate
from mdae.evaluation.features.cache import FeatureCache
from mdae.evaluation.features.extractors import Histogram, open_extractor
from mdae.evaluation.finetuning.config import FinetuneOptions
from mdae.evaluation.probing.cross_validation import cross_validate, folds_by_subject, hold_out
from mdae.evaluation.probing.estimators import LINEAR, RIDGE
from mdae.evaluation.probing.neighbours import KNN
from mdae.evaluation.results.reader import read_results
from mdae.evaluation.results.schema import Evaluation, results_table
from mdae.evaluation.statistics.intervals import cross_validation_widening
from mdae.evaluation.statistics.scores import classification_scores
from mdae.interop.exposure import Exposure, known_exposure
from mdae.networks import preset
from mdae.networks.saved import SavedModel, save_model
from mdae.options import AugmentOptions
from mdae.seeding import numpy_generator, torch_generator
from mdae.tasks.catalogue import find_task
from mdae.tasks.layouts import Case
from tests.tasks.trees import SUBJECTS, TREES, save


@pytest.fixture(scope="module")
def brats(tmp_path_factory) -> Path:
    """BraTS18, made up: high grades have a bright piece."""
    return TREES["brats18"](tmp_path_factory.mktemp("trees") / "brats18")


@pytest.fixture(scope="module")
def run(brats, tmp_path_factory) -> Callable[..., Evaluation]:
    """Evaluate on it with few folds and a cache that the tests share."""
    cache = tmp_path_factory.mktemp("cache")

    def run(out: Path, **changes: object) -> Evaluation:
        options: dict[str, object] = {
            "encoder": "histogram",
            "task": ("brats18-grade",),
            "data": brats,
            "contrasts": ("t1", "flair"),
            "out": out,
            "cache": cache,
            "folds": 3,
            "repeats": 2,
            "device": "cpu",
        }
        (evaluation,) = evaluate(EvaluateConfig(**{**options, **changes}))  # type: ignore[arg-type]
        return evaluation

    return run


def test_a_result_holds_all_that_a_reviewer_asks_for(run, tmp_path):
    evaluation = run(tmp_path)
    (path,) = tmp_path.glob("*.json")
    written = json.loads(path.read_text())
    assert [result["modality"] for result in written["results"]] == ["t1", "flair", "all"]
    for result in written["results"]:
        assert len(result["subjects"]) == len(result["predictions"]) == len(result["labels"]) == SUBJECTS
        assert result["scores"].keys() == {
            *("auroc", "average_precision", "balanced_accuracy", "f1", "brier", "calibration_error")
        }
        for score in result["scores"].values():
            assert score["low"] <= score["value"] <= score["high"]
        assert result["widening"] == pytest.approx(np.sqrt(1 + 3 / 2))
    assert written["task"]["name"] == "brats18-grade" and written["trials"] == 1
    assert "chosen within each training part" in evaluation.selection
    assert evaluation.results[0].scores["auroc"].value == 1.0, "the bright piece is plain to see"


def test_what_the_encoder_was_pretrained_on_stands_in_the_result(run, tmp_path, monkeypatch):
    assert run(tmp_path).exposure == Exposure()
    asked = []
    monkeypatch.setattr(
        "mdae.evaluation.evaluate.exposure_of",
        lambda *about: asked.append(about) or known_exposure("brainmvp:x.pt", about[1]),
    )
    evaluation = run(tmp_path)
    assert asked == [("histogram", "brats18")] and evaluation.exposure.mark == "shared"
    written = json.loads((tmp_path / "brats18-grade__histogram__linear.json").read_text())
    assert written["exposure"]["mark"] == "shared" and "took over" in written["exposure"]["what"]
    assert "Not unseen data to this encoder" in str(results_table(evaluation).caption)
    assert evaluation.attributes["TCIA00_100"] == {"site": "TCIA00"}


def test_the_command_prints_a_table_and_writes_the_file(brats, tmp_path, capsys):
    common = ["--encoder", "histogram", "--task", "brats18-grade", "--data", str(brats), "--folds", "3"]
    main(
        [
            "evaluate",
            *common,
            "--modalities",  # as it was called before
            "t1",
            "--out",
            str(tmp_path),
            "--cache",
            str(tmp_path / "cache"),
        ]
    )
    said = capsys.readouterr().out
    assert "high- or low-grade glioma" in said and "histogram" in said
    assert (tmp_path / "brats18-grade__histogram__linear.json").is_file()


def test_features_are_computed_once_for_all_tasks_and_again_when_a_scan_changes(brats, tmp_path, monkeypatch):
    computed = []
    plain = Histogram.features
    monkeypatch.setattr(Histogram, "features", lambda self, scan: computed.append(1) or plain(self, scan))
    root = TREES["upenn-gbm"](tmp_path / "upenn")
    config = EvaluateConfig(
        encoder="histogram",
        task=("upenn-sex", "upenn-age"),
        data=root,
        contrasts=("T1",),
        out=tmp_path / "results",
        folds=3,
        cache=tmp_path / "cache",
        repeats=1,
    )
    assert len(list(evaluate(config))) == 2
    assert len(computed) == 2 * SUBJECTS, "one embedding a scan for both tasks"
    list(evaluate(config))
    assert len(computed) == 2 * SUBJECTS
    changed = sorted(root.rglob("*_11_T1.nii.gz"))[0]
    save(changed, 999, 0.3)
    list(evaluate(config))
    assert len(computed) == 2 * SUBJECTS + 1


def test_regression_is_scored_as_regression(tmp_path):
    root = TREES["upenn-gbm"](tmp_path / "upenn")
    config = EvaluateConfig(
        encoder="histogram",
        task=("upenn-age",),
        data=root,
        contrasts=("T1",),
        out=tmp_path,
        cache=tmp_path / "c",
    )
    (evaluation,) = evaluate(config)
    assert evaluation.results[0].scores["pearson_r"].value > 0.7, "age brightens the piece"
    assert evaluation.results[0].scores["mae"].value < 5
    (result,), (cell,) = evaluation.results, read_results([tmp_path])
    assert cell.ranked is not None and np.array_equal(cell.ranked, result.ranked)
    assert np.corrcoef(cell.labels, cell.ranked)[0, 1] == pytest.approx(result.scores["pearson_r"].value)


def test_fine_tuning_is_a_protocol_like_the_others(run, tmp_path):
    model = tmp_path / "model"
    network = preset("tiny").new(torch_generator(0, "weights")).eval()
    save_model(model, SavedModel(network, Preprocessing(spacing_mm=(8.0, 8.0, 8.0)), (16, 16, 16)))
    options = FinetuneOptions(epochs=1, batch=4, augment=AugmentOptions())
    tuned = {"encoder": str(model), "protocol": "finetune", "folds": 2, "repeats": 1, "finetune": options}
    first = run(tmp_path / "out", **tuned)
    assert [result.contrast for result in first.results] == ["t1", "flair", "all"]
    assert all(len(result.predictions) == SUBJECTS for result in first.results)
    assert np.isfinite(first.results[2].predictions).all()
    assert "epoch chosen within each training part" in first.selection and first.settings["epochs"] == 1
    again = run(tmp_path / "out", **tuned)
    assert again.results == first.results and again.trials == 1
    other = run(tmp_path / "out", **{**tuned, "finetune": replace(options, lr=1e-3)})
    assert other.trials == 2


# -- who is on which side -----------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    visits=st.lists(st.integers(1, 4), min_size=12, max_size=40),
    folds=st.integers(2, 5),
    seed=st.integers(0, 2**16),
    stratified=st.booleans(),
)
def test_no_subject_is_ever_on_two_sides(visits, folds, seed, stratified):
    subjects = np.repeat([f"s{i}" for i in range(len(visits))], visits)
    labels = np.repeat(np.arange(len(visits)) % 2, visits)
    seen = np.zeros(len(subjects), int)
    for train, test in folds_by_subject(labels, subjects, folds, seed, stratified=stratified):
        assert not set(subjects[train]) & set(subjects[test])
        seen[test] += 1
    assert (seen == 1).all(), "everyone is tested once"


def test_repeated_sessions_cannot_be_split_by_a_table(tmp_path):
    table = tmp_path / "split.csv"
    table.write_text("subject,split\na,train\na,test\nb,test\n")
    cohort = Cohort([Case("a"), Case("b")], np.array([0.0, 1.0]), {})
    with pytest.raises(DataError, match="subject a has more than one row"):
        split_parts(table, cohort)


def test_the_same_scan_under_two_names_is_one_person(run, brats, tmp_path):
    """A planted leak: a scan copied under another subject's name would be on both sides."""
    root = Path(shutil.copytree(brats, tmp_path / "leaky"))
    source = next((root / "HGG").iterdir())
    twin = root / "HGG" / "Brats18_TCIA09_999_1"
    twin.mkdir()
    for path in source.iterdir():
        shutil.copy(path, twin / path.name.replace(source.name, twin.name))
    evaluation = run(tmp_path / "out", data=root)
    assert evaluation.excluded == {COPIES: 1}
    assert len(evaluation.results[0].subjects) == SUBJECTS


def test_copies_with_contradicting_labels_are_both_left_out():
    cohort = Cohort([Case(name) for name in "abcd"], np.array([0.0, 1.0, 1.0, 1.0]), {})
    assert copies(cohort, [["x"], ["y"], ["x", "z"], ["q"]]) == {0: COPIES, 2: COPIES}
    assert copies(cohort, [["x"], ["y"], ["z"], ["y"]]) == {3: COPIES}
    assert copies(cohort, [["x", "x"], ["y"], ["z"], ["q"]]) == {}, "two files of one person are no leak"
    assert cohort.without({3: COPIES}).excluded == {COPIES: 1}


@pytest.mark.parametrize("protocol", [LINEAR, KNN, RIDGE], ids=["linear", "knn", "ridge"])
def test_a_label_planted_in_a_subjects_identity_cannot_be_used(protocol):
    """Features that name the subject, not the class, tell nothing about subjects who were never seen."""
    rng = numpy_generator(0, "leak")
    subjects = np.repeat([f"s{i}" for i in range(60)], 3)
    labels = np.repeat(rng.permutation(60) % 2, 3).astype(float)
    identity = rng.standard_normal((60, 200))
    features = np.repeat(identity, 3, axis=0) + 0.01 * rng.standard_normal((180, 200))
    honest = cross_validate(protocol, features, labels, subjects, folds=5, repeats=3).scores
    leaky = cross_validate(protocol, features, labels, np.arange(180).astype(str), folds=5, repeats=3).scores
    area = {
        name: classification_scores(labels, s, np.full(180, 0.5), subjects)["auroc"].value
        for name, s in (("honest", honest), ("leaky", leaky))
    }
    assert area["leaky"] > 0.95, "split by scan, the subject is recognised"
    assert 0.3 < area["honest"] < 0.7, "split by subject, it is not"


@pytest.mark.parametrize("protocol", [LINEAR, KNN, RIDGE], ids=["linear", "knn", "ridge"])
def test_labels_of_the_test_part_change_no_score(protocol):
    rng = numpy_generator(1, "holdout")
    features, labels = rng.standard_normal((80, 10)), np.arange(80) % 2 * 1.0
    subjects, parts = np.arange(80).astype(str), np.repeat(["train", "val", "test"], [40, 20, 20])
    before = hold_out(protocol, features, labels, subjects, parts, seed=0)
    spoilt = np.where(parts == "test", 1 - labels, labels)
    after = hold_out(protocol, features, spoilt, subjects, parts, seed=0)
    assert np.array_equal(before.scores, after.scores) and before.chosen == after.chosen


def test_a_validation_part_of_one_class_chooses_nothing():
    rng = numpy_generator(2, "holdout")
    labels = np.arange(80) % 2 * 1.0
    features = rng.standard_normal((80, 10)) + 0.7 * labels[:, None]
    subjects, parts = np.arange(80).astype(str), np.repeat(["train", "test"], [50, 30])
    watched = np.where((np.arange(80) < 20) & (labels == 1), "val", parts)
    found, whole = (hold_out(KNN, features, labels, subjects, some, seed=0) for some in (watched, parts))
    assert found.chosen == whole.chosen and found.chosen[0] > 1, (
        "inner folds choose, and the class mix does not"
    )


# -- the evaluation log --------------------------------------------------------------------------------------------


def test_a_test_set_that_is_opened_again_is_no_longer_unseen(run, brats, tmp_path):
    names = [
        path.name.removeprefix("Brats18_").removesuffix("_1") for path in sorted(brats.rglob("Brats18_*_1"))
    ]
    parts = ["test" if i % 12 < 10 and i % 2 else ("val" if i % 3 == 0 else "train") for i in range(12)]
    table = tmp_path / "split.csv"
    pd.DataFrame({"subject": names, "split": parts}).to_csv(table, index=False)
    out = tmp_path / "out"
    first = run(tmp_path / "split", split=table, contrasts=("t1",))
    assert (first.trials, "scored once" in first.selection) == (1, True)
    one = {"contrasts": ("t1",), "repeats": 1}
    assert [run(out, **one).trials for _ in range(2)] == [1, 1], "the same evaluation again is no other trial"
    assert run(out, **one, protocol="knn").trials == 2
    assert run(out, **one, name="another").trials == 2, "the same weights and settings"
    assert run(out, **one, name="another", seed=1).trials == 3
    written = json.loads((out / "brats18-grade__histogram__knn.json").read_text())
    assert written["trials"] == 2


def test_a_result_that_replaces_another_encoders_says_so(run, tmp_path, caplog):
    run(tmp_path, contrasts=("t1",), name="ours")
    run(tmp_path, contrasts=("t1",), name="ours")
    assert "replaces" not in caplog.text
    run(tmp_path, contrasts=("t1",), name="ours", encoder="untrained:tiny", window="centre")
    assert "replaces that of another ours; --name keeps both" in caplog.text


def test_scans_of_the_pre_training_are_counted(model, cohort, tmp_path):
    (tmp_path / "own.yaml").write_text(
        "name: lesions\ntitle: lesions\nlayout: bids\nlabel: {column: lesion, positive: 1}\ncontrasts: [T1w]\n"
    )
    config = EvaluateConfig(
        encoder=str(model),
        task=(str(tmp_path / "own.yaml"),),
        data=cohort,
        out=tmp_path,
        cache=tmp_path / "cache",
        device="cpu",
        repeats=1,
    )
    (evaluation,) = evaluate(config)
    assert evaluation.seen_in_pretraining == 12, "it was trained on this very cohort"


# -- what cannot be done ------------------------------------------------------------------------------------------


def test_too_few_subjects_are_refused_with_the_reason(run, tmp_path):
    evaluation = run(tmp_path, folds=9)
    assert "a class has 6 subjects to score, and 9 are wanted" in evaluation.results[0].refused
    assert evaluation.results[0].scores == {}


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"task": ("nothing",)}, ConfigError, "no task 'nothing'"),
        ({"contrasts": ("t9",)}, ConfigError, "has no contrast t9"),
        ({"encoder": "untrained:huge"}, ConfigError, "untrained:tiny"),
        ({"encoder": "nobody:nowhere"}, ConfigError, "nobody"),
        ({"data": None}, ConfigError, "no data named"),
        ({"encoder": "histogram", "protocol": "finetune"}, ConfigError, "no network to fine-tune"),
        ({"data": Path("nowhere")}, DataError, "no such file or folder"),
        ({"split": Path("nowhere.csv")}, DataError, "no such table"),
        (
            {"task": ("brats18-seg",), "contrasts": (), "protocol": "linear"},
            ConfigError,
            "has masks and no labels for --protocol linear",
        ),
        ({"pool": "max"}, ConfigError, "--window and --pool are for frozen encoders of ours"),
        (
            {"encoder": "untrained:tiny", "protocol": "finetune", "window": "centre"},
            ConfigError,
            "--window and --pool are for frozen encoders of ours",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(run, tmp_path, changes, kind, said):
    with pytest.raises(kind, match=said) as caught:
        run(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_a_split_that_cannot_be_used_is_said_before_anything_is_embedded(run, tmp_path, monkeypatch):
    monkeypatch.setattr(FeatureCache, "fill", lambda *args, **kwargs: pytest.fail("embedded first"))
    table = tmp_path / "split.csv"
    table.write_text("subject,split\nnobody,train\n")
    with pytest.raises(DataError, match=r"none of its subjects, e.g. .nobody., is in the cohort, e.g. .TCIA"):
        run(tmp_path, split=table)


def test_a_device_that_is_too_small_is_one_line(run, tmp_path, monkeypatch):
    def full(self, prepared):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to\nallocate")

    monkeypatch.setattr(Histogram, "features", full)
    with pytest.raises(ConfigError, match="histogram: the device does not hold a scan") as caught:
        run(tmp_path, cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_scans_whose_content_is_not_known_are_read_again_and_are_no_copies(run, tmp_path):
    quick = {"cache": tmp_path / "cache", "contrasts": ("t1",), "repeats": 1}
    first = run(tmp_path / "out", **quick)
    notes = list((tmp_path / "cache").rglob("*.content"))
    for note in notes:
        note.unlink()
    again = run(tmp_path / "out", **quick)
    assert notes and again.excluded == first.excluded == {} and again.results == first.results


def test_who_is_not_in_the_split_is_counted(run, brats, tmp_path):
    names = sorted(p.name.removeprefix("Brats18_").removesuffix("_1") for p in brats.rglob("Brats18_*_1"))
    parts = ["train", "test"] * 5
    pd.DataFrame({"subject": names[:10], "split": parts}).to_csv(tmp_path / "split.csv", index=False)
    evaluation = run(tmp_path / "out", split=tmp_path / "split.csv", contrasts=("t1",))
    assert evaluation.excluded == {"not in split.csv": SUBJECTS - 10}


def test_a_folder_that_cannot_be_written_is_said_first(run, tmp_path, monkeypatch):
    monkeypatch.setattr(FeatureCache, "fill", lambda *args, **kwargs: pytest.fail("embedded first"))
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="a file stands where a folder is wanted"):
        run(tmp_path / "out")


def test_unfit_scans_are_left_out_and_the_others_go_on(run, brats, tmp_path):
    root = Path(shutil.copytree(brats, tmp_path / "damaged"))
    damaged = sorted(root.rglob("*_t1.nii.gz"))[0]
    damaged.write_bytes(damaged.read_bytes()[:200])
    evaluation = run(tmp_path / "out", data=root)
    assert sum(evaluation.excluded.values()) == 1
    assert len(evaluation.results[0].subjects) == SUBJECTS - 1


# -- effects and their absence ------------------------------------------------------------------------------------


def _rejections(effect: float, repetitions: int) -> float:
    """How often an interval of the AUROC leaves out 0.5, over cohorts of 60 subjects held out from 120."""
    rejected = 0
    for number in range(repetitions):
        rng = numpy_generator(number, "null")
        labels = rng.permutation(np.arange(180) % 2).astype(float)
        features = rng.standard_normal((180, 8))
        features[:, 0] += effect * labels
        parts = np.repeat(["train", "val", "test"], [80, 40, 60])
        subjects = np.arange(180).astype(str)
        scored = hold_out(LINEAR, features, labels, subjects, parts, seed=number)
        test = parts == "test"
        area = classification_scores(
            labels[test], scored.scores[test], scored.probabilities[test], subjects[test], seed=number
        )["auroc"]
        rejected += not area.low <= 0.5 <= area.high
    return rejected / repetitions


@pytest.mark.slow
def test_a_null_effect_is_reported_as_null_at_the_nominal_rate():
    assert 0.015 <= _rejections(0.0, 200) <= 0.1, (
        "5 % nominally; a binomial of 200 stays within this 19 times of 20"
    )


def test_a_real_effect_is_found():
    assert _rejections(1.5, 40) >= 0.95


@pytest.mark.slow
def test_on_made_up_brains_a_known_effect_is_found_and_a_null_effect_is_null(tmp_path):
    """Lesions against none by intensities, and 200 labels that were drawn by lot, as `mdae evaluate` scores them."""
    source = synthesise(
        SynthConfig(out=tmp_path / "cohort", subjects=200, contrasts=("FLAIR",), spacing_mm=4.0)
    )
    (tmp_path / "own.yaml").write_text(
        "name: lesions\ntitle: lesions\nlayout: bids\nlabel: {column: lesion, positive: 1}\ncontrasts: [FLAIR]\n"
    )
    config = EvaluateConfig(
        encoder="histogram",
        task=(str(tmp_path / "own.yaml"),),
        data=source,
        out=tmp_path,
        cache=tmp_path / "c",
    )
    (evaluation,) = evaluate(config)
    assert evaluation.results[0].scores["auroc"].low > 0.5
    task, extractor = find_task(str(tmp_path / "own.yaml")), open_extractor("histogram")
    cohort = find_cohort(task, source, ("FLAIR",))
    cache = FeatureCache(tmp_path / "c", extractor)
    features = np.stack([cache.read(case.scans["FLAIR"]) for case in cohort.cases]).astype(float)
    rejected = 0
    for number in range(200):
        labels = numpy_generator(number, "lot").permutation(cohort.labels)
        scored = cross_validate(LINEAR, features, labels, cohort.subjects, folds=5, repeats=1, seed=number)
        area = classification_scores(
            labels,
            scored.scores,
            scored.probabilities,
            cohort.subjects,
            widening=cross_validation_widening(5),
            seed=number,
        )["auroc"]
        rejected += not area.low <= 0.5 <= area.high
    assert rejected <= 20, "5 % nominally, 10 % at the most"


def test_features_of_other_code_or_arithmetic_are_not_taken_from_the_cache(brats, tmp_path, monkeypatch):
    from mdae.evaluation.features import cache

    extractor = Histogram()
    entry = find_cohort(find_task("brats18-grade"), brats, ("t1",)).cases[0].scans["t1"]
    place = FeatureCache(tmp_path, extractor).path(entry)
    assert FeatureCache(tmp_path, Histogram()).path(entry) == place
    extractor.precision = "bf16"
    assert FeatureCache(tmp_path, extractor).path(entry) != place
    monkeypatch.setattr(cache, "__version__", "9.9")
    assert FeatureCache(tmp_path, Histogram()).path(entry) != place


def test_an_untrained_network_has_a_seed():
    first, again, other = (
        open_extractor(spec, device="cpu")
        for spec in ("untrained:tiny", "untrained:tiny:0", "untrained:tiny:1")
    )
    assert (first.name, again.name, other.name) == ("untrained-tiny", "untrained-tiny", "untrained-tiny-1")
    assert first.fingerprint == again.fingerprint != other.fingerprint
    weights = [next(e.encoder.network.parameters()).detach() for e in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    with pytest.raises(ConfigError, match="untrained:tiny:1"):
        open_extractor("untrained:tiny:x")


def test_the_fingerprint_makes_another_trial(brats, run, tmp_path, monkeypatch):
    """Another preprocessing of the same weights, say, is another way to look at the test."""
    one = {"contrasts": ("t1",), "repeats": 1}
    assert run(tmp_path, **one).trials == 1
    plain = Histogram.__init__

    def otherwise(self, *given):
        plain(self, *given)
        self.fingerprint = "otherwise"

    monkeypatch.setattr(Histogram, "__init__", otherwise)
    assert run(tmp_path, **one).trials == 2


def test_scans_of_the_pre_training_are_counted_among_those_that_are_scored(brats, run, tmp_path, monkeypatch):
    cohort = find_cohort(find_task("brats18-grade"), brats, ("t1",))
    parts = ["test" if i in (0, 1, 2, 3, 4, 6, 7, 8, 9, 10) else "train" for i in range(12)]
    order = np.argsort(cohort.labels, kind="stable")
    names = cohort.subjects[order]
    pd.DataFrame({"subject": names, "split": parts}).to_csv(tmp_path / "split.csv", index=False)
    plain = whole_scans.overlap
    asked = []
    monkeypatch.setattr(
        whole_scans, "overlap", lambda known, hashes: asked.append(set(hashes)) or plain(known, hashes)
    )
    run(tmp_path / "whole", contrasts=("t1",))
    run(tmp_path / "part", contrasts=("t1",), split=tmp_path / "split.csv")
    assert [len(hashes) for hashes in asked] == [12, 10]
