"""Folds are pooled on one scale, choices are made in training parts, and ties go to the simpler model."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from mdae.evaluation.probing.cross_validation import (
    choose,
    cross_validate,
    folds_by_subject,
    hold_out,
    numbers_to_one_scale,
    probability_of,
    to_one_scale,
)
from mdae.evaluation.probing.estimators import LINEAR, RIDGE, Protocol
from mdae.evaluation.probing.multiclass import multiclass
from mdae.evaluation.probing.neighbours import KNN
from mdae.evaluation.statistics.intervals import weighted_auroc
from mdae.seeding import key, numpy_generator


def area(labels: np.ndarray, scores: np.ndarray) -> float:
    return float(weighted_auroc(labels, scores, np.ones((1, len(labels))))[0])


def study(repeat: int, number: int = 60, features: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A weak effect in two of many features, so that folds choose different penalties."""
    labels = np.arange(number) % 2
    x = numpy_generator(repeat, "study").standard_normal((number, features))
    x[:, :2] += 0.8 * labels[:, None]
    return x, labels, np.arange(number)


def test_folds_are_pooled_on_one_scale():
    """Raw, the largest spread of a fold is hundreds of times the smallest, and the pooled AUROC too low."""
    ratios, pooled, within = [], [], []
    for repeat in range(8):
        x, y, names = study(repeat)
        scores = cross_validate(LINEAR, x, y, names, repeats=1, seed=repeat).scores
        folds = [test for _, test in folds_by_subject(y, names, 5, key(repeat, "folds", 0) % 2**32)]
        spreads = [scores[test].std() for test in folds]
        ratios.append(max(spreads) / min(spreads))
        pooled.append(area(y, scores))
        within.append(np.mean([area(y[test], scores[test]) for test in folds]))
    assert np.median(ratios) < 4
    assert np.mean(pooled) > np.mean(within) - 0.02


def test_one_scale_keeps_the_ranks_of_a_fold_and_centres_between_the_classes():
    rng = numpy_generator(0, "scale")
    labels, known, raw = np.arange(40) % 2, 3e-4 * rng.standard_normal(40), 3e-4 * rng.standard_normal(9)
    known += 1e-3 * labels + 5
    scaled = to_one_scale(raw, known, labels)
    assert np.array_equal(np.argsort(scaled), np.argsort(raw))
    assert np.allclose(scaled, to_one_scale(1000 * raw, 1000 * known, labels)), "whatever the penalty"
    mine = to_one_scale(known, known, labels)
    assert mine[labels == 1].mean() == pytest.approx(-mine[labels == 0].mean())
    spread = np.mean([mine[labels == value].var() for value in (0, 1)])
    assert spread == pytest.approx(1)
    several = to_one_scale(np.stack([raw, -raw], 1), np.stack([known, -known], 1), 1 - labels)
    assert np.allclose(several[:, 0], scaled) and np.allclose(several[:, 1], -scaled)


def test_what_has_no_spread_or_no_out_of_fold_score_is_let_be():
    raw, labels = np.array([1.0, 2.0]), np.array([0, 1, 1])
    assert to_one_scale(raw, np.full(3, 1.5), labels).tolist() == [-0.5, 0.5]
    assert to_one_scale(raw, np.full(3, np.nan), labels).tolist() == [1.0, 2.0]


def test_standardisation_is_learned_in_the_training_part():
    """A test subject far from all others moves nobody else's score."""
    seen = []

    def fit(features, labels, candidate):
        seen.append(len(features))
        return LINEAR.fit(features, labels, candidate)

    x, y, names = study(0, 40, 3)
    watched = Protocol("linear", LINEAR.candidates, fit, LINEAR.quality)
    cross_validate(watched, x, y, names, folds=4, repeats=1)
    assert max(seen) == 30 and set(seen) <= {30, 22, 23}, "neither models nor choices see a test row"
    far = x.copy()
    far[3] = 1e6
    part = next(test for _, test in folds_by_subject(y, names, 4, key(0, "folds", 0) % 2**32) if 3 in test)
    before, after = (cross_validate(LINEAR, z, y, names, folds=4, repeats=1).scores for z in (x, far))
    others = part[part != 3]
    assert np.array_equal(before[others], after[others])
    parts = np.where(np.isin(np.arange(40), part), "test", "train")
    before, after = (hold_out(LINEAR, z, y, names, parts, 0).scores for z in (x, far))
    assert np.array_equal(before[others], after[others])


@pytest.mark.parametrize("share", [0.1, 0.2, 0.8])
def test_a_rare_class_is_fitted_as_a_frequent_one(share):
    """Without equal weights of the classes, scores of a rare one lie below 0 whatever the features say."""
    labels = (np.arange(300) < 300 * share).astype(int)
    x = numpy_generator(1, "rare").standard_normal((300, 2)) + 1.5 * labels[:, None]
    for protocol in (LINEAR, KNN):
        raw = protocol.fit(x, labels, protocol.candidates[-1 if protocol is LINEAR else 1])(x)
        called = [float((raw[labels == value] > 0).mean()) for value in (0, 1)]
        assert called[1] > 0.7 and called[0] < 0.3, protocol.name


@pytest.mark.parametrize(
    "protocol", [LINEAR, KNN, RIDGE, multiclass(3)], ids=["linear", "knn", "ridge", "three"]
)
def test_ties_go_to_the_simpler_model(protocol):
    assert max(protocol.candidates) == protocol.candidates[0] or protocol is not KNN, (
        "more neighbours are simpler"
    )
    assert all((a > b) == (protocol is KNN) for a, b in pairwise(protocol.candidates))
    flat = Protocol(
        protocol.name,
        protocol.candidates,
        protocol.fit,
        lambda *_: 0.7,
        protocol.stratified,
        protocol.columns,
    )
    x, y, names = study(0, 30, 3)
    assert (
        choose(flat, x, y + (np.arange(30) % 3 == 2) * protocol.columns // 3, names, 0)
        == protocol.candidates[0]
    )


def test_probabilities_have_the_training_parts_shares():
    labels = np.r_[np.ones(20), np.zeros(80)]
    assert probability_of(np.zeros(3), labels, LINEAR) == pytest.approx(0.2)
    three = np.repeat([0, 1, 2], [60, 30, 10])
    told = probability_of(np.zeros((2, 3)), three, multiclass(3))
    assert told == pytest.approx(np.array([[0.6, 0.3, 0.1]] * 2))
    assert np.isnan(probability_of(np.zeros(2), labels, RIDGE)).all()


def test_a_correlation_is_of_folds_on_one_scale():
    """Of 40 subjects with a true r of about 0.5: pooled as they are, folds tell far too little of it."""
    gaps = []
    for study in range(5):
        rng = numpy_generator(study, "r")
        x, fresh = rng.standard_normal((40, 12)), rng.standard_normal((2000, 12))
        y, truth = (own[:, 0] + own[:, 1] + 1.8 * rng.standard_normal(len(own)) for own in (x, fresh))
        subjects = np.arange(40)
        scored = cross_validate(RIDGE, x, y, subjects, folds=5, repeats=1, seed=study)
        best = choose(RIDGE, x, y, subjects, study)
        true = np.corrcoef(RIDGE.fit(x, y, best)(fresh), truth)[0, 1]
        gaps.append([np.corrcoef(own, y)[0, 1] - true for own in (scored.scores, scored.ranked)])
    pooled, on_one_scale = np.mean(gaps, axis=0)
    assert pooled < -0.1 and abs(on_one_scale) < 0.5 * abs(pooled)


def test_numbers_on_one_scale_do_not_know_how_a_fold_was_held_back():
    rng = numpy_generator(0, "scale")
    raw, known = rng.standard_normal(12), rng.standard_normal(48)
    np.testing.assert_allclose(
        numbers_to_one_scale(3 + 1e-3 * raw, 3 + 1e-3 * known), numbers_to_one_scale(raw, known), rtol=1e-9
    )
    assert np.array_equal(numbers_to_one_scale(raw, np.full(48, 2.0)), raw - 2)
    assert (
        cross_validate(LINEAR, raw[:, None], (raw > 0).astype(int), np.arange(12), folds=2, repeats=1).ranked
        is None
    )


def test_the_choice_is_the_best_mean_over_inner_folds():
    """A slow reading; weak and strong penalties both win somewhere."""
    won = set()
    for repeat in range(4):
        x, y, names = study(repeat, features=4 if repeat % 2 else 50)
        parts = list(folds_by_subject(y, names, 4, key(7, "inner") % 2**32))
        means = [
            np.mean(
                [area(y[test], LINEAR.fit(x[train], y[train], strength)(x[test])) for train, test in parts]
            )
            for strength in LINEAR.candidates
        ]
        won.add(choose(LINEAR, x, y, names, 7))
        assert choose(LINEAR, x, y, names, 7) == LINEAR.candidates[int(np.argmax(means))]
    assert len(won) > 1


def test_too_few_for_inner_folds_take_the_middle_candidate():
    x, y, names = study(0, number=12)
    alone = (np.arange(12) == 3).astype(int)
    assert choose(LINEAR, x, alone, names, 0) == LINEAR.candidates[2]
    assert choose(LINEAR, x, y, np.zeros(12), 0) == LINEAR.candidates[2], "all scans are of one subject"


def test_numbers_on_one_scale_go_with_their_rows():
    x, _, names = study(0)
    scored = cross_validate(RIDGE, x, x[:, 0] + x[:, 1], names, repeats=1)
    rows = np.array([5, 2, 40])
    assert scored.ranked is not None and np.array_equal(scored.among(rows).ranked, scored.ranked[rows])
    assert cross_validate(LINEAR, x, (x[:, 0] > 0).astype(int), names, repeats=1).among(rows).ranked is None
