"""How often the performance that `mdae fit` tells holds the fitted model's score on thousands of fresh subjects.

    python -m benchmarks.expected [--studies 200] [--subjects 60] [--repeats 1]

Made-up cohorts: 20 features, of which 4 know something of the label; one scan a subject. Each study is fitted as the
command fits it, choices, calibration and all, and its model scores 4,000 subjects that had no part in it. Beside the
share of intervals that hold that score stands the calibration on the fresh subjects: the mean probability less the
share of positives, and the slope of a logistic regression of the labels on the log-odds said, 1 if they are right.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from benchmarks.common import save
from mdae.evaluation.statistics.scores import classification_figures, regression_figures
from mdae.inference.config import FitConfig
from mdae.inference.fit import fit_features
from mdae.inference.heads import Classifier
from mdae.inference.labelled import Labelled
from mdae.inference.targets import Target
from mdae.seeding import numpy_generator

FEATURES, TELLING, FRESH = 20, 4, 4000


def draw(number: int, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F) and labels (N,): a third of subjects is positive, or numbers of R squared about 0.4."""
    x = rng.standard_normal((number, FEATURES))
    known = x[:, :TELLING].sum(axis=1) / np.sqrt(TELLING)
    if kind == "regression":
        return x, known + 1.2 * rng.standard_normal(number)
    return x, (known + 0.8 * rng.logistic(size=number) > 0.65).astype(int)


def study(seed: int, kind: str, number: int, repeats: int) -> dict[str, Any]:
    """Fit one cohort; what was told, and what is true."""
    rng = numpy_generator(seed, f"expected {kind}")
    x, y = draw(number, kind, rng)
    names = np.array([f"p{i}" for i in range(number)])
    labelled = Labelled(x, names, pd.Series(y), None, "label", "", ("",), [])
    target = Target(kind, y, ("no", "yes") if kind == "classification" else ())  # type: ignore[arg-type]
    config = FitConfig(encoder="", labels="", out="", repeats=repeats, seed=seed)  # type: ignore[arg-type]
    model = fit_features(labelled, target, config, {})
    fresh, truth = draw(FRESH, kind, rng)
    whole = np.ones((1, FRESH))
    if kind == "regression":
        figures = regression_figures(truth, model.head.line(fresh))
        rows = pd.DataFrame(model.head.rows(fresh))
        extra = {"range_holds": float(((rows["low"] <= truth) & (truth <= rows["high"])).mean())}
    else:
        assert isinstance(model.head, Classifier)
        said = model.head.probabilities(fresh)[:, 1]
        figures = classification_figures(truth, model.head.line(fresh), said)
        slope = LogisticRegression(C=np.inf).fit(logit(said.clip(1e-6, 1 - 1e-6))[:, None], truth).coef_
        extra = {"in_the_large": float(said.mean() - truth.mean()), "slope": float(slope[0, 0])}
    scores = {name: float(figures[name](whole)[0]) for name in model.expected}
    held = {name: own["low"] <= scores[name] <= own["high"] for name, own in model.expected.items()}
    return {"held": held, "bias": {n: own["value"] - scores[n] for n, own in model.expected.items()}, **extra}


def main() -> None:
    """Run the studies of both kinds and record what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--subjects", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    for kind in ("classification", "regression"):
        started = time.perf_counter()
        found = [study(seed, kind, options.subjects, options.repeats) for seed in range(options.studies)]
        table: dict[str, Any] = {
            name: {
                "coverage": float(np.mean([own["held"][name] for own in found])),
                "bias": float(np.mean([own["bias"][name] for own in found])),
            }
            for name in found[0]["held"]
        }
        for name in found[0].keys() - {"held", "bias"}:
            table[name] = {"mean": float(np.mean([own[name] for own in found]))}
        results += [{"kind": kind, "figure": name, **row, **vars(options)} for name, row in table.items()]
        print(kind, f"{time.perf_counter() - started:.0f} s", flush=True)
        for name, row in table.items():
            print(f"  {name:20s}", "  ".join(f"{key} {value:.3f}" for key, value in row.items()), flush=True)
    save("expected", results)


if __name__ == "__main__":
    main()
