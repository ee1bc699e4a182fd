"""The protocols of few masks: who is learned from and scored, nested draws, and curves that encoders share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mdae.errors import ConfigError, DataError
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.evaluate import evaluate
from mdae.evaluation.nnunet.labels import found_labels
from mdae.evaluation.results.reader import read_results
from mdae.evaluation.results.schema import Evaluation
from mdae.evaluation.segment import evaluate as few
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.evaluation.segment.encoders import open_source
from mdae.evaluation.segment.scoring import label_names, score_voxels
from mdae.options import AugmentOptions
from mdae.tasks.layouts import read_cases
from tests.evaluation.nnunet import made

SUBJECTS = 8
QUICK = FewLabelOptions(points=60, steps=2, batch=1, looks=1, overlap=0.0, augment=AugmentOptions())


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return made.dataset(tmp_path_factory.mktemp("few"), SUBJECTS)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return made.model(tmp_path_factory.mktemp("few") / "run" / "model")


@pytest.fixture(scope="module")
def run(data, model) -> Callable[..., Evaluation]:
    def run(out: Path, **changes: object) -> Evaluation:
        options = {"encoder": str(model), "task": (str(data),), "protocol": "voxels", "folds": 2, "out": out}
        options |= {"device": "cpu", "few": QUICK, **changes}
        (evaluation,) = evaluate(EvaluateConfig(**options))  # type: ignore[arg-type]
        return evaluation

    return run


@pytest.fixture(scope="module")
def evaluation(run, model, tmp_path_factory) -> tuple[Evaluation, Path]:
    out = tmp_path_factory.mktemp("results")
    return run(out, encoder=f"position:{model}"), out


def test_every_subject_is_scored_once_in_every_view(data, evaluation):
    result, out = evaluation
    assert [one.contrast for one in result.results] == ["T1w", "FLAIR", "all"]
    for one in result.results:
        assert sorted(one.subjects) == [f"case_{n:02d}" for n in range(1, SUBJECTS + 1)]
        assert {"dice", "dice_outer", "nsd_deep", "average_precision"} <= one.scores.keys()
        assert one.scores["dice"].low <= one.scores["dice"].value <= one.scores["dice"].high
    flair, together = (result.results[i].scores["average_precision"].value for i in (1, 2))
    masks = [np.asarray(nib.load(case.mask).dataobj) for case in read_cases("nnunet", data)]
    by_chance = np.mean([[(mask == value).mean() for value in (1, 2)] for mask in masks])
    assert min(flair, together) > 4 * by_chance, "lesions are bright in FLAIR"
    (cell, *_) = read_results([out])
    assert result.encoder == "position" and result.seen_in_pretraining == 0
    assert cell.protocol == "voxels" and len(cell.values["dice"]) == SUBJECTS
    assert "NaN" not in next(out.glob("*.json")).read_text()


@pytest.mark.parametrize("protocol", ["voxels", "segment"])
def test_an_encoder_of_several_contrasts_is_asked_of_all_at_once(run, data, tmp_path, protocol):
    model = made.model(tmp_path / "model", channels=("flair", "t1"))  # in another order and spelling
    rows = ["case_01,train", "case_02,val", "case_03,test"]
    (tmp_path / "split.csv").write_text("\n".join(["subject,split", *rows]) + "\n")
    options = {"protocol": protocol, "split": tmp_path / "split.csv"}
    (found,) = run(tmp_path / "out", encoder=str(model), **options).results
    assert found.contrast == "all" and found.subjects == ["case_03"] and found.values["dice"][0] > 0
    source, case = open_source(str(model), "cpu"), read_cases("nnunet", data)[0]
    for contrasts, files in ((("T1w", "FLAIR"), ["0001", "0000"]), (("T1w",), [None, "0000"])):
        (session,) = few._load(case, source, contrasts).scans
        shown = [None if own is None else own.source[-11:-7] for own in session.records]
        assert shown == files and session.data.shape[0] == 2
    with pytest.raises(ConfigError, match="scans of T1w for a model of PD, FLAIR"):
        other = made.model(tmp_path / "other", channels=("PD", "FLAIR"))
        run(tmp_path / "out", encoder=str(other), contrasts=("T1w",))


@pytest.mark.parametrize("protocol", ["voxels", "segment"])
def test_labels_with_gaps_are_numbered_anew_before_anything_is_learned(
    run, data, tmp_path, monkeypatch, protocol
):
    given: list[set[int]] = []

    def spy(learned, source, options, names, *rest, **others):
        assert tuple(names) == ("background", "outer", "deep")
        given.extend(set(np.unique(own.labels).tolist()) for own in learned)
        raise DataError("seen enough")

    for name in ("fit_segmenter", "fit_points"):  # of volumes, or of points drawn from them
        monkeypatch.setattr(few, name, spy)
    with pytest.raises(DataError, match="seen enough"):
        run(tmp_path, protocol=protocol, task=(str(made.with_gaps(data, tmp_path)),))
    assert set().union(*given) == {0, 1, 2}


def test_nobody_is_learned_from_and_scored(run, tmp_path, monkeypatch):
    folds: list[tuple[set[str], set[str]]] = []
    original = few.fit_points

    def spy(subjects, *rest, **options):
        folds.append(({own.subject for own in subjects}, set()))
        return original(subjects, *rest, **options)

    scored = few._Study._scored

    def watch(self, case, *rest):
        folds[-1][1].add(case.subject)
        return scored(self, case, *rest)

    monkeypatch.setattr(few, "fit_points", spy)
    monkeypatch.setattr(few._Study, "_scored", watch)
    first = run(tmp_path / "a", contrasts=("FLAIR",))
    assert len(folds) == 2 and all(not learned & tested for learned, tested in folds)
    assert all(len(learned | tested) == SUBJECTS for learned, tested in folds)
    again = run(tmp_path / "b", contrasts=("FLAIR",))
    assert json.dumps(again.to_dict()) == json.dumps(first.to_dict()), "repeated it comes out the same"


def test_a_split_tests_its_test_subjects_alone_and_val_subjects_choose(run, tmp_path, monkeypatch):
    parts = ["train", "train", "val", *["test"] * 4]
    rows = [f"case_{n:02d},{part}" for n, part in enumerate(parts, start=1)]
    (tmp_path / "split.csv").write_text("\n".join(["subject,split", *rows]) + "\n")
    given: list[tuple[list[str], list[str]]] = []
    original = few.fit_segmenter

    def spy(subjects, *rest, val, **options):
        given.append(([own.subject for own in subjects], [own.subject for own in val]))
        return original(subjects, *rest, val=val, **options)

    monkeypatch.setattr(few, "fit_segmenter", spy)
    evaluation = run(tmp_path / "out", protocol="segment", contrasts=("FLAIR",), split=tmp_path / "split.csv")
    assert given == [(["case_01", "case_02"], ["case_03"])]
    assert evaluation.results[0].subjects == [f"case_{n:02d}" for n in range(4, SUBJECTS)]
    assert evaluation.excluded == {"not in split.csv": 1} and evaluation.results[0].refused
    assert evaluation.protocol == "segment" and evaluation.fits[0]["chosen_on"] == "validation subjects"


PEOPLE = {
    1: "002_S_0413",
    2: "002_S_0413",
    3: "ADNI-011 S",
    4: "Müller",
    5: "Müller",
    6: "P-6",
    7: "P-7",
    8: "P-6",
}


@pytest.mark.parametrize(("protocol", "with_position"), [("voxels", True), ("segment", False)])
def test_two_volumes_of_a_person_are_in_one_part_and_score_as_one(
    run, tmp_path, monkeypatch, protocol, with_position
):
    rows = [f"case_{case:02d},{person}" for case, person in PEOPLE.items()]
    (tmp_path / "people.csv").write_text("\n".join(["scan,subject", *rows]) + "\n")
    learned: list[list[str]] = []
    tested: list[list[tuple[str, float]]] = []  # fold by fold, of one person and then of all
    fit = "fit_points" if protocol == "voxels" else "fit_segmenter"
    original, scored = getattr(few, fit), few._Study._scored

    def spy(subjects, *rest, **options):
        learned.append([own.subject for own in subjects])
        tested.append([])
        return original(subjects, *rest, **options)

    def watch(self, case, *rest):
        for place, view, figures in scored(self, case, *rest):
            fold = (len(learned) - 1) // 2
            tested[2 * fold + (place[0] == "all")].append((PEOPLE[int(case.subject[-2:])], figures["dice"]))
            yield place, view, figures

    monkeypatch.setattr(few, fit, spy)
    monkeypatch.setattr(few._Study, "_scored", watch)
    options = {"contrasts": ("FLAIR",), "subjects": tmp_path / "people.csv", "with_position": with_position}
    options |= {"few": replace(QUICK, steps=0)}
    (result,) = run(tmp_path / "out", protocol=protocol, train_sizes=("1", "all"), draws=1, **options).results
    assert sorted(result.subjects) == sorted(set(PEOPLE.values())), "five people, not eight cases"
    assert all(not set(own) & {person for person, _ in out} for own, out in zip(learned, tested, strict=True))
    assert [len(set(own)) for own in learned[::2]] == [1, 1], "--train-sizes counts people"
    everybody = [*learned[1], *(person for person, _ in tested[1])]
    assert sorted(everybody) == sorted(PEOPLE.values()), "every volume is learned from or tested"
    dice = [figure for out in tested[1::2] for person, figure in out if person == "Müller"]
    assert len(dice) == 2
    assert result.values["dice"][result.subjects.index("Müller")] == pytest.approx(np.mean(dice))


def test_a_split_may_name_people_and_has_each_on_one_side(run, model, tmp_path):
    rows = [f"case_{case:02d},{person}" for case, person in PEOPLE.items()]
    (tmp_path / "people.csv").write_text("\n".join(["scan,subject", *rows]) + "\n")
    parts = {"002_S_0413": "train", "ADNI-011 S": "train", "Müller": "test", "P-6": "test", "P-7": "test"}
    named = [f"{person},{part}" for person, part in parts.items()]
    (tmp_path / "split.csv").write_text("\n".join(["subject,split", *named]) + "\n")
    options = {"encoder": f"position:{model}", "contrasts": ("FLAIR",), "subjects": tmp_path / "people.csv"}
    evaluation = run(tmp_path / "out", split=tmp_path / "split.csv", **options)
    assert sorted(evaluation.results[0].subjects) == ["Müller", "P-6", "P-7"]
    torn = [f"case_{case:02d},{'train' if case < 5 else 'test'}" for case in PEOPLE]
    (tmp_path / "torn.csv").write_text("\n".join(["subject,split", *torn]) + "\n")
    with pytest.raises(DataError, match="Müller is in train and in test"):
        run(tmp_path / "torn", split=tmp_path / "torn.csv", **options)


def test_smaller_draws_are_parts_of_larger_ones_and_the_same_for_every_encoder(
    run, model, tmp_path, monkeypatch
):
    drawn: list[set[str]] = []
    original = few.fit_points

    def spy(subjects, *rest, **options):
        drawn.append({own.subject for own in subjects})
        return original(subjects, *rest, **options)

    monkeypatch.setattr(few, "fit_points", spy)
    rows = [f"case_{n:02d},{'train' if n <= 3 else 'test'}" for n in range(1, SUBJECTS + 1)]
    (tmp_path / "split.csv").write_text("\n".join(["subject,split", *rows]) + "\n")
    options = {
        "contrasts": ("FLAIR",),
        "train_sizes": ("1", "2", "all"),
        "draws": 2,
        "split": tmp_path / "split.csv",
    }
    one = run(tmp_path / "a", with_position=True, **options)
    own = drawn.copy()
    assert [len(names) for names in own] == [1, 1, 2, 2, 3] and own[0] < own[2] and own[1] < own[3]
    drawn.clear()
    other = run(tmp_path / "b", encoder=f"position:{model}", **options)
    assert drawn == own
    assert one.protocol == "voxels+position" and other.protocol == "voxels"
    curve = one.results[0].curve
    shapes = [(point.size, np.array(point.values["dice"]).shape) for point in curve]
    assert shapes == [(1, (2, 5)), (2, (2, 5)), (3, (1, 5))]
    last = curve[-1]
    assert last.scores["dice"].value == pytest.approx(np.mean(one.results[0].values["dice"]))
    assert last.values["dice"][0] == one.results[0].values["dice"]
    (cell,) = read_results([tmp_path / "a"])
    assert [point.size for point in cell.curve] == [1, 2, 3]
    assert cell.curve[0].scores["dice"] == curve[0].scores["dice"]


def test_place_and_intensities_are_no_encoder_of_whole_scans(run, tmp_path):
    with pytest.raises(ConfigError, match="segmentations alone"):
        run(tmp_path, encoder="position", protocol="linear", task=("brats18-grade",), data=tmp_path)


def test_an_unfit_subject_is_left_out_with_the_reason(run, model, tmp_path):
    other = made.dataset(tmp_path, SUBJECTS)
    path = other / "labelsTr" / "case_01.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)
    evaluation = run(tmp_path / "out", encoder=f"position:{model}", task=(str(other),), contrasts=("T1w",))
    assert evaluation.excluded == {"T1w on another grid than the mask": 1}
    assert "case_01" not in evaluation.results[0].subjects


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"encoder": "histogram"}, ConfigError, "no voxels of histogram"),
        ({"task": ("brats18-grade",)}, ConfigError, "has a label and no masks"),
        ({"folds": SUBJECTS + 1}, DataError, "8 subjects for 9 folds"),
        ({"train_sizes": ("5",)}, DataError, "5 subjects to learn from are wanted, and there are 4"),
        ({"train_sizes": ("0",)}, ConfigError, "train size '0'"),
        ({"protocol": "auto", "train_sizes": ("1",)}, ConfigError, "nnU-Net with --train-sizes"),
        ({"protocol": "segment", "with_position": True}, ConfigError, "--with-position"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(run, tmp_path, changes, error, said):
    with pytest.raises(error, match=said) as caught:
        run(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_figures_of_a_subject_by_hand():
    rng = np.random.default_rng(4)
    scheme = replace(found_labels({0, 1, 2}), ignore=9)
    mask = rng.choice([0, 1, 9], size=(6, 6, 6))
    probabilities = rng.dirichlet(np.ones(3), size=(6, 6, 6)).transpose(3, 0, 1, 2)
    found = score_voxels(probabilities, mask, scheme, (1.0, 1.0, 1.0))
    counted = mask != 9
    called, there = probabilities.argmax(axis=0)[counted] == 1, mask[counted] == 1
    assert found["dice_label_1"] == pytest.approx(2 * (called & there).sum() / (called.sum() + there.sum()))
    assert found["average_precision_label_1"] == average_precision_score(there, probabilities[1][counted])
    assert found["dice_label_2"] == 0.0 and np.isnan(found["average_precision_label_2"]), "it is nowhere"
    assert found["dice"] == pytest.approx(found["dice_label_1"] / 2)


def test_regions_are_called_where_any_of_their_labels_is():
    scheme = replace(found_labels({0, 1, 2}), classes={"whole": (1, 2), "core": (2,)})
    assert label_names(scheme) == ("background", "label_1", "core")
    probabilities = np.zeros((3, 1, 1, 4))
    for voxel, label in enumerate((0, 1, 2, 1)):
        probabilities[label, 0, 0, voxel] = 1
    found = score_voxels(probabilities, np.array([[[0, 1, 2, 2]]]), scheme, (1.0, 1.0, 1.0))
    assert found["dice_whole"] == 1.0 and found["dice_core"] == pytest.approx(2 / 3)
