"""Result files are read or refused by a line; encoders meet on the same subjects; averages keep what cells share."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.special import logit
from scipy.stats import norm

from mdae.errors import DataError
from mdae.evaluation.results.paired import (
    Difference,
    SubjectDraws,
    average,
    compare,
    compare_averages,
    figures_of,
    paired,
    subject_dof,
)
from mdae.evaluation.results.reader import read_result, read_results
from mdae.evaluation.statistics.tests import delong
from mdae.seeding import numpy_generator
from tests.evaluation.cells import bare_cell, cell, evaluation, made_up_result, made_up_task, write

TASK = made_up_task()


def scored(seed: int, number: int = 40, effect: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(number) % 2.0
    return labels, numpy_generator(seed, "scored").standard_normal(number) + effect * (labels - 0.5)


# -- reading --------------------------------------------------------------------------------------------------------


def test_what_evaluate_writes_is_read_again(tmp_path):
    labels, scores = scored(0)
    result = made_up_result(TASK, "FLAIR", labels, scores, widening=1.5)
    found = evaluation(TASK, "ours", [result], trials=3, seen_in_pretraining=2)
    (read,) = read_results([write(tmp_path, found)])
    assert read.place == ("linear", "kind", "FLAIR") and read.scenario == "cross-modality"
    assert read.scores == result.scores and read.widening == 1.5 and (read.trials, read.seen) == (3, 2)
    assert read.predictions.tolist() == scores.tolist() and read.labels.tolist() == labels.tolist()
    assert {name: f(np.ones((1, 40)))[0] for name, f in figures_of(read).items()} == pytest.approx(
        {name: e.value for name, e in read.scores.items() if name != "calibration_error"}
    )


def test_unknown_fields_are_let_be_and_a_folder_is_read_but_for_its_book_of_trials(tmp_path):
    content = evaluation(TASK, "ours", [made_up_result(TASK, "T1w", *scored(0))]).to_dict()
    content |= {"news": 1, "task": content["task"] | {"colour": "red"}}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.json").write_text(json.dumps(content))
    (tmp_path / "trials" / "abc").mkdir(parents=True)
    (tmp_path / "trials" / "abc" / "y.json").write_text("{}")
    assert [read.encoder for read in read_results([tmp_path, tmp_path / "a" / "x.json"])] == ["ours"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: c | {"format": 9}, "format 9, and this version reads 1"),
        (lambda c: {"a": 1}, "not a result file"),
        (lambda c: [c], "not a result file"),
        (lambda c: c | {"results": [{}]}, "damaged"),
        (lambda c: c | {"task": {"name": "x"}}, "damaged"),
        (lambda c: c | {"results": [c["results"][0] | {"predictions": [1.0]}]}, "damaged .*1 values of 40"),
        (
            lambda c: c | {"results": [c["results"][0] | {"subjects": ["a"] * 40}]},
            "a subject stands in it twice",
        ),
    ],
)
def test_what_is_not_a_result_file_is_refused_in_one_line(tmp_path, change, line):
    path = write(tmp_path, evaluation(TASK, "ours", [made_up_result(TASK, "T1w", *scored(0))]))
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DataError, match=line) as caught:
        read_result(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "image.json").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="no JSON"):
        read_results([tmp_path / "image.json"])
    with pytest.raises(DataError, match="no such file"):
        read_results([tmp_path / "none.json"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no result file in it"):
        read_results([tmp_path / "empty"])


def test_a_cell_that_stands_in_two_files_and_two_encoders_of_one_name_are_refused(tmp_path):
    found = evaluation(TASK, "ours", [made_up_result(TASK, "T1w", *scored(0))])
    write(tmp_path / "a", found)
    write(tmp_path / "b", found)
    with pytest.raises(DataError, match=r"ours on kind, T1w, linear is in .* too"):
        read_results([tmp_path])
    other = evaluation(made_up_task("other"), "ours", found.results, fingerprint="another")
    with pytest.raises(DataError, match="its ours is another encoder"):
        read_results([tmp_path / "a", write(tmp_path / "c", other)])


# -- pairs ----------------------------------------------------------------------------------------------------------


def test_auroc_is_compared_by_delong_and_the_widening_of_both(tmp_path):
    labels, first = scored(0)
    second = scored(1)[1]
    one = cell(tmp_path, TASK, "a", labels, first, widening=1.5)
    other = cell(tmp_path, TASK, "b", labels, second, widening=1.5)
    found = compare(one, other, "auroc", SubjectDraws([one, other]))
    assert found == Difference(*delong(labels, first, second, widening=1.5), 40)


def test_encoders_are_compared_on_common_subjects_whatever_their_order():
    labels, first = scored(0)
    second = scored(1)[1]
    one = bare_cell(TASK, "a", labels, first)
    other = bare_cell(TASK, "b", labels, second).among(np.arange(35)[::-1])
    mine, theirs = paired(one, other, "auroc")
    assert mine.subjects.tolist() == theirs.subjects.tolist() and len(mine.subjects) == 35
    assert compare(one, other, "auroc", SubjectDraws([one, other])) == Difference(
        *delong(labels[:35], first[:35], second[:35]), 35
    )


def test_several_nodules_of_a_patient_are_drawn_together():
    labels, first = scored(0)
    second = scored(1)[1]
    people = np.array([f"p{number // 4}" for number in range(40)])
    one = bare_cell(TASK, "a", labels, first, people=people)
    other = bare_cell(TASK, "b", labels, second, people=people)
    draws = SubjectDraws([one, other])
    assert compare(one, other, "auroc", draws).estimate == delong(labels, first, second, people=people)[0]
    assert np.ptp(draws.weights(one).reshape(len(draws.weights(one)), 10, 4), axis=2).max() == 0
    assert subject_dof([one]) < subject_dof([bare_cell(TASK, "a", labels, first)])
    mine, _ = paired(one, other.among(np.arange(35)[::-1]), "auroc")
    assert mine.people.tolist() == people[:35].tolist()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda c: replace(c, labels=np.r_[1 - c.labels[:2], c.labels[2:]]),
            "the labels of 2 subjects differ",
        ),
        (lambda c: replace(c, widening=1.5), "cross-validated otherwise"),
        (lambda c: replace(c, refused="a class has 3 subjects"), "a class has 3 subjects"),
        (lambda c: replace(c, contrast="FLAIR"), "different trials"),
        (lambda c: c.among(np.arange(9)), "9 subjects in common are too few"),
        (lambda c: replace(c, subjects=np.char.add("x", c.subjects)), "0 subjects in common are too few"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(change, reason):
    one, other = (bare_cell(TASK, name, *scored(seed)) for seed, name in enumerate("ab"))
    with pytest.raises(DataError, match=reason):
        paired(one, change(other), "auroc")


@pytest.mark.parametrize("kind", ["classification", "regression", "segmentation"])
def test_an_encoder_does_not_differ_from_itself_in_any_figure(tmp_path, kind):
    task = made_up_task(kind=kind)
    labels, scores = scored(0)
    scores = np.clip(0.7 + 0.1 * scores, 0, 1) if kind == "segmentation" else scores
    labels = labels if kind == "classification" else labels + 0.1 * np.arange(40)
    one, other = (cell(tmp_path, task, name, labels, scores) for name in "ab")
    draws = SubjectDraws([one, other])
    for metric in figures_of(one):
        found = compare(one, other, metric, draws)
        assert (found.estimate.value, found.estimate.low, found.estimate.high, found.p) == (0, 0, 0, 1), (
            metric
        )
    better = cell(tmp_path, task, "c", labels, labels * 2 - 1 if kind != "segmentation" else scores / 2)
    metric = {"classification": "brier", "regression": "r2", "segmentation": "dice"}[kind]
    assert compare(one, better, metric, SubjectDraws([one, better])).p < 0.01


def test_subjects_without_a_figure_in_either_do_not_count():
    task = made_up_task(kind="segmentation")
    values = np.linspace(0.5, 0.9, 20)
    nothing = np.full(20, np.nan)
    one = bare_cell(task, "a", nothing, nothing, values={"dice": np.r_[np.nan, values[1:]]})
    other = bare_cell(task, "b", nothing, nothing, values={"dice": np.r_[values[:-1] - 0.1, np.nan]})
    found = compare(one, other, "dice", SubjectDraws([one, other]))
    assert found.num_subjects == 18 and found.estimate.value == pytest.approx(0.1)


# -- averages -------------------------------------------------------------------------------------------------------


def test_cells_of_a_data_set_share_their_draw_and_data_sets_do_not():
    """The same predictions four times are no more certain than once; four data sets are, by the root of four."""
    labels, scores = scored(0, 60)
    copies = [bare_cell(TASK, "a", labels, scores, contrast=f"m{i}") for i in range(4)]
    tasks = [
        made_up_task(f"t{i}", layout=layout)
        for i, layout in enumerate(("table", "ucsf-pdgm", "brats18", "brats23"))
    ]
    apart = [bare_cell(task, "a", labels, scores) for task in tasks]
    draws = SubjectDraws(copies + apart)
    once, copied, spread = (average(cells, "auroc", draws) for cells in (copies[:1], copies, apart))
    assert copied == once
    assert spread.value == pytest.approx(once.value)
    assert (spread.high - spread.low) / (once.high - once.low) == pytest.approx(0.5, rel=0.1)


def test_equal_names_in_two_tables_of_ones_own_are_other_people(tmp_path):
    """sub-01 of one clinic is not sub-01 of another, though both are of layout `table`."""
    labels, scores = scored(0, 60)
    one, other = (bare_cell(made_up_task(n), "a", labels, scores, data_set=f"table {n}") for n in "ab")
    draws = SubjectDraws([one, other])
    assert not np.array_equal(draws.weights(one), draws.weights(other))
    assert np.array_equal(draws.weights(one), draws.weights(replace(one, contrast="FLAIR")))
    alone, both = average([one], "auroc", draws), average([one, other], "auroc", draws)
    assert (both.high - both.low) / (alone.high - alone.low) == pytest.approx(0.5**0.5, rel=0.1)


def test_a_rare_class_decides_how_certain_an_average_is():
    labels = (np.arange(205) < 5).astype(float)
    scores = numpy_generator(3, "rare").standard_normal(205) + 1.5 * labels
    rare = bare_cell(TASK, "a", labels, scores)
    assert subject_dof([rare]) == pytest.approx(4.2, abs=0.05)
    draws = SubjectDraws([rare])
    value, deviations = draws.deviations(rare, "auroc")
    arm = stats.t.ppf(0.975, subject_dof([rare])) * deviations.std() / (value * (1 - value))
    assert logit(average([rare], "auroc", draws).low) == pytest.approx(logit(value) - arm)


def test_refitted_models_widen_averages_and_differences():
    labels, scores = scored(0, 60)
    one, other = bare_cell(TASK, "a", labels, scores), bare_cell(TASK, "b", labels, scored(1, 60)[1])
    wide, wide_other = (replace(c, contrast="FLAIR", widening=1.5) for c in (one, other))
    draws = SubjectDraws([one, other])
    plain, widened = (average([c], "auroc", draws) for c in (one, wide))
    assert logit(widened.high) - logit(widened.value) == pytest.approx(
        1.5 * (logit(plain.high) - logit(plain.value))
    )
    plain = compare(one, other, "brier", draws).estimate
    widened = compare(wide, wide_other, "brier", draws).estimate
    assert widened.high - widened.value == pytest.approx(1.5 * (plain.high - plain.value))


def test_an_average_over_subjects_of_part_of_the_cells_keeps_who_is_who():
    """Rows in another order, and cells of other subjects, get the weights of their subjects."""
    labels, scores = scored(0, 30)
    whole = bare_cell(TASK, "a", labels, scores)
    part = whole.among(np.arange(29, 9, -1))
    weights = SubjectDraws([whole, part])
    assert np.array_equal(weights.weights(part), weights.weights(whole)[:, 29:9:-1])


def test_a_difference_of_averages_leaves_out_what_cannot_be_compared():
    labels, scores = scored(0)
    one, other = bare_cell(TASK, "a", labels, scores), bare_cell(TASK, "b", labels, scored(1)[1])
    odd = replace(other, contrast="FLAIR", labels=1 - labels)
    draws = SubjectDraws([one, other, odd])
    alone = compare_averages([(one, other)], "auroc", draws)
    assert compare_averages([(one, other), (replace(one, contrast="FLAIR"), odd)], "auroc", draws) == alone
    assert compare_averages([(replace(one, contrast="FLAIR"), odd)], "auroc", draws) is None
    assert alone.p == pytest.approx(compare(one, other, "auroc", draws).p, rel=0.25)


@pytest.mark.parametrize("number", [30, 100])
def test_intervals_of_averages_and_of_their_differences_hold_the_truth(number):
    """Two tasks in two contrasts of the same subjects, some of them hard for every encoder."""
    tasks, areas = [made_up_task(name) for name in "ab"], (0.75, 0.70)
    effects = np.sqrt(2) * norm.ppf(areas)
    held = np.zeros(2)
    for repeat in range(300):
        rng = numpy_generator(repeat, "averages", number)
        hard, cells = rng.standard_normal(number), {0: [], 1: []}
        for task in tasks:
            labels = rng.permutation(np.arange(number) % 2.0)
            for contrast in ("T1w", "FLAIR"):
                for encoder, effect in enumerate(effects):
                    scores = 0.6 * hard + 0.8 * rng.standard_normal(number) + effect * labels
                    cells[encoder].append(bare_cell(task, f"e{encoder}", labels, scores, contrast=contrast))
        draws = SubjectDraws(cells[0] + cells[1], seed=repeat, replicates=400)
        found = average(cells[0], "auroc", draws)
        gain = compare_averages(list(zip(*cells.values(), strict=True)), "auroc", draws).estimate
        held += [found.low <= areas[0] <= found.high, gain.low <= areas[0] - areas[1] <= gain.high]
    assert (held / 300 >= 0.93).all() and (held / 300 <= 0.985).all()
