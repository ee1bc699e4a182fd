"""How often a probe's 95 % interval holds the truth under cross-validation, as a bootstrap gives it and widened.

    python -m benchmarks.intervals [--repeats 200]

Features are noise with an effect in the first; the truth is the mean AUROC, on two thousand fresh subjects, of models
fitted to the training parts. A second encoder has other features of the same subjects with the same effect: how often
DeLong's test finds a difference between the two, at 5 %, is how often it errs. Nothing here depends on an encoder.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.common import save, show
from mdae.evaluation.probing.cross_validation import choose, cross_validate, folds_by_subject
from mdae.evaluation.probing.estimators import LINEAR
from mdae.evaluation.statistics.intervals import auroc, cross_validation_widening, weighted_auroc
from mdae.evaluation.statistics.tests import delong
from mdae.seeding import numpy_generator

CASES = [(60, 8, 0.0), (60, 100, 0.0), (200, 100, 0.0), (60, 8, 1.0), (60, 100, 1.5), (200, 100, 1.0)]
FRESH, FOLDS = 2000, 5
WAYS = {"bootstrap": 1.0, "widened": cross_validation_widening(FOLDS)}


def made_up(
    number: int, features: int, effect: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F) and balanced labels (N,)."""
    labels = np.arange(number) % 2
    x = rng.standard_normal((number, features))
    x[:, 0] += effect * labels
    return x, labels


def one(subjects: int, features: int, effect: float, repeat: int) -> dict[str, float]:
    """One study: its value, whether intervals hold the truth and equals are told apart, and one model's truth."""
    rng = numpy_generator(repeat, "study", subjects, features)
    x, y = made_up(subjects, features, effect, rng)
    other, _ = made_up(subjects, features, effect, rng)
    names, options = np.arange(subjects), {"folds": FOLDS, "repeats": 1, "seed": repeat}
    scores, others = (cross_validate(LINEAR, z, y, names, **options).scores for z in (x, other))
    train, _ = next(folds_by_subject(y, names, FOLDS, repeat))
    score = LINEAR.fit(x[train], y[train], choose(LINEAR, x[train], y[train], names[train], repeat))
    fresh, labels = made_up(FRESH, features, effect, rng)
    study = {"truth": float(weighted_auroc(labels, score(fresh), np.ones((1, FRESH)))[0])}
    for name, factor in WAYS.items():
        found = auroc(y, scores, names, widening=factor, seed=repeat)
        study |= {"mean_found": found.value, f"{name} low": found.low, f"{name} high": found.high}
        study[f"{name}, equals differ"] = float(delong(y, scores, others, widening=factor)[1] < 0.05)
    return study


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with threadpool_limits(1):
        for case in CASES:
            studies = [one(*case, repeat) for repeat in range(options.repeats)]
            mean = {name: float(np.mean([study[name] for study in studies])) for name in studies[0]}
            row = {"subjects": case[0], "features": case[1], "effect": case[2]}
            for name in WAYS:
                held = [study[f"{name} low"] <= mean["truth"] <= study[f"{name} high"] for study in studies]
                row |= {name: float(np.mean(held)), f"{name}, equals differ": mean[f"{name}, equals differ"]}
            rows.append(
                {**row, "truth": mean["truth"], "mean_found": mean["mean_found"], "repeats": options.repeats}
            )
            show(rows[-1:])
    save("intervals", rows)


if __name__ == "__main__":
    main()
