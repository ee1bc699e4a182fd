"""How often the 95 % intervals of held-out figures and of differences hold a truth that is known.

    python -m benchmarks.coverage [--repeats 400]

Classes are two normals a distance apart, and scores their true log-odds; Dice is Beta distributed. Beside our intervals
stand the percentiles of the same bootstrap. The truth is the figure of 200,000 subjects (of an AUROC: exact).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from benchmarks.common import save, show
from mdae.evaluation.statistics.intervals import (
    SHARE,
    Estimate,
    Weighted,
    bootstrap_estimate,
    class_sizes,
    subject_weights,
)
from mdae.evaluation.statistics.rates import balanced_accuracy
from mdae.evaluation.statistics.scores import SCALES, classification_figures, mean_figure, regression_figures
from mdae.evaluation.statistics.tests import delong
from mdae.seeding import numpy_generator

REPLICATES, MANY = 1000, 200_000
CLASSES = [(5, 5), (10, 10), (20, 20), (10, 50), (50, 50), (20, 100)]
AREAS = (0.6, 0.8, 0.95)
UNEQUAL = [(5, 200), (10, 300), (19, 500), (10, 400)]  # down to 1 in 41
UNEQUAL_AREAS = (0.6, 0.75, 0.9)
STUDIES = [(*sizes, AREAS) for sizes in CLASSES] + [(*sizes, UNEQUAL_AREAS) for sizes in UNEQUAL]
NUMBERS = (6, 10, 20, 50, 200)


def study(
    positive: int, negative: int, area: float, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, Weighted]]:
    """The scores of one classification, and its figures."""
    distance = np.sqrt(2) * norm.ppf(area)
    labels = np.r_[np.ones(positive), np.zeros(negative)]
    scores = distance * (rng.standard_normal(len(labels)) + distance * (labels - 0.5))
    return scores, classification_figures(labels, scores, expit(scores + np.log(positive / negative)))


def of_numbers(number: int, rng: np.random.Generator) -> dict[str, Weighted]:
    """The figures of one regression (R squared 0.36) and of one segmentation (mean Dice 0.8)."""
    labels = rng.standard_normal(number)
    guess = 0.6 * (0.6 * labels + 0.8 * rng.standard_normal(number))
    return regression_figures(labels, guess) | {"dice": mean_figure(rng.beta(8, 2, number))}


def held(
    figure: Weighted,
    weights: np.ndarray,
    sizes: tuple[int, ...],
    name: str,
    truth: float,
    ours: Estimate | None = None,
) -> list[bool]:
    """Whether ours, the bootstrap's if none is given, and the percentiles hold the truth."""
    replicates = figure(weights)  # once for both
    ours = ours or bootstrap_estimate(
        lambda w: replicates if w is weights else figure(w), weights, sizes, scale=SCALES.get(name, SHARE)
    )
    low, high = np.nanpercentile(replicates, [2.5, 97.5])
    return [found.low <= truth <= found.high for found in (ours, Estimate(ours.value, low, high))]


def classifications(repeats: int) -> Iterator[dict[str, Any]]:
    """A row a figure, cohort and AUROC."""
    for positive, negative, areas in STUDIES:
        labels, names = np.r_[np.ones(positive), np.zeros(negative)], np.arange(positive + negative)
        weights = subject_weights(names, labels, seed=0, replicates=REPLICATES)
        scale = MANY // (positive + negative)
        for area in areas:
            _, many = study(positive * scale, negative * scale, area, numpy_generator(0, "truth"))
            whole = np.ones((1, (positive + negative) * scale))
            truths = {name: float(figure(whole)[0]) for name, figure in many.items()} | {"auroc": area}
            hits: dict[str, list[list[bool]]] = {name: [] for name in truths}
            for repeat in range(repeats):
                rng = numpy_generator(repeat, "study", positive, negative)
                scores, figures = study(positive, negative, area, rng)
                sizes = class_sizes(names, labels)
                own = {"balanced_accuracy": balanced_accuracy(labels, (scores > 0).astype(int), names)}
                for name, figure in figures.items():
                    hits[name].append(held(figure, weights, sizes, name, truths[name], own.get(name)))
            for name, found in hits.items():
                ours, percentiles = np.mean(found, axis=0)
                about = {"figure": name, "positive": positive, "negative": negative, "auroc": area}
                yield {**about, "truth": truths[name], "ours": float(ours), "percentiles": float(percentiles)}


def numbers(repeats: int) -> Iterator[dict[str, Any]]:
    """A row a figure of numbers and cohort."""
    truths = {"mae": np.sqrt(2 / np.pi) * 0.8, "r2": 0.36, "pearson_r": 0.6, "dice": 0.8}
    for number in NUMBERS:
        rng = numpy_generator(0, "weights", number)
        weights = rng.multinomial(number, np.full(number, 1 / number), REPLICATES).astype(float)
        hits: dict[str, list[list[bool]]] = {name: [] for name in truths}
        for repeat in range(repeats):
            for name, figure in of_numbers(number, numpy_generator(repeat, "numbers", number)).items():
                hits[name].append(held(figure, weights, (number,), name, truths[name]))
        for name, found in hits.items():
            ours, percentiles = np.mean(found, axis=0)
            about = {"figure": name, "subjects": number, "truth": float(truths[name])}
            yield {**about, "ours": float(ours), "percentiles": float(percentiles)}


def differences(repeats: int) -> Iterator[dict[str, Any]]:
    """A row a cohort and pair of AUROCs, by DeLong; scores correlate by one half within a class."""
    for positive, negative, _ in STUDIES:
        labels = np.r_[np.ones(positive), np.zeros(negative)]
        for first, second in ((0.7, 0.7), (0.9, 0.9), (0.9, 0.7)):
            effects = np.sqrt(2) * norm.ppf([first, second])
            hits = []
            for repeat in range(repeats):
                noise = numpy_generator(repeat, "pair", positive, negative).standard_normal((3, len(labels)))
                scores = np.sqrt(0.5) * (noise[:1] + noise[1:]) + effects[:, None] * labels
                estimate, _ = delong(labels, *scores)
                hits.append(estimate.low <= first - second <= estimate.high)
            about = {"figure": "auroc difference", "positive": positive, "negative": negative}
            yield {**about, "auroc": first, "other": second, "ours": float(np.mean(hits))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=400)
    repeats = parser.parse_args().repeats
    rows = []
    for part in (classifications, numbers, differences):
        found = [row | {"repeats": repeats} for row in part(repeats)]
        show(found)
        rows += found
    save("coverage", rows)


if __name__ == "__main__":
    main()
