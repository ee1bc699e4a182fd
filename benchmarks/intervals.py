"""How often a probe's 95 % interval holds the truth under cross-validation, as a bootstrap gives it and widened.

    python -m benchmarks.intervals [--repeats 200]

Features are noise with an effect in the first; the truth is the mean AUROC, on two thousand fresh subjects, of models
fitted to the training parts. Nothing here depends on an encoder.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.common import save, show
from mdae.evaluation.metrics import auroc, cross_validation_widening, weighted_auroc
from mdae.evaluation.protocols import LINEAR, choose, cross_validate, folds_by_subject
from mdae.seeding import numpy_generator

CASES = [(60, 8, 0.0), (60, 100, 0.0), (200, 100, 0.0), (60, 8, 1.0), (60, 100, 1.5), (200, 100, 1.0)]
FRESH, FOLDS = 2000, 5


def made_up(
    number: int, features: int, effect: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F) and balanced labels (N,)."""
    labels = np.arange(number) % 2
    x = rng.standard_normal((number, features))
    x[:, 0] += effect * labels
    return x, labels


def one(subjects: int, features: int, effect: float, repeat: int) -> tuple[float, float, float, float]:
    """Value, low and high of one study, and the truth for one of its models."""
    rng = numpy_generator(repeat, "study", subjects, features)
    x, y = made_up(subjects, features, effect, rng)
    names = np.arange(subjects)
    found = auroc(
        y, cross_validate(LINEAR, x, y, names, folds=FOLDS, repeats=1, seed=repeat).scores, names, seed=repeat
    )
    train, _ = next(folds_by_subject(y, names, FOLDS, repeat))
    score = LINEAR.fit(x[train], y[train], choose(LINEAR, x[train], y[train], names[train], repeat))
    fresh, labels = made_up(FRESH, features, effect, rng)
    truth = weighted_auroc(labels, score(fresh), np.ones((1, FRESH)))[0]
    return found.value, found.low, found.high, float(truth)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with threadpool_limits(1):
        for case in CASES:
            value, low, high, truths = np.array([one(*case, repeat) for repeat in range(options.repeats)]).T
            truth, row = truths.mean(), {"subjects": case[0], "features": case[1], "effect": case[2]}
            for name, factor in (("bootstrap", 1.0), ("widened", cross_validation_widening(FOLDS))):
                held = (value + factor * (low - value) <= truth) & (truth <= value + factor * (high - value))
                row[name] = float(held.mean())
            rows.append(
                {**row, "truth": float(truth), "mean_found": float(value.mean()), "repeats": options.repeats}
            )
            show(rows[-1:])
    save("intervals", rows)


if __name__ == "__main__":
    main()
