"""Concordance of risks with times, some of which ended before the event was seen.

A time is one number: positive where it ended in the event, negative where the subject was lost then.
"""

from __future__ import annotations

import numpy as np

from mdae.errors import DataError
from mdae.evaluation.statistics.intervals import MIN_SUBJECTS, REPLICATES, Estimate, bootstrap_estimate
from mdae.seeding import numpy_generator


def concordance(times: np.ndarray, risks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Harrell's C for many weightings at once: of pairs whose order is known, the share whose risks say it.

    Args:
        times: (N,), negative where the subject was lost.
        risks: (N,), larger for an earlier event; ties count half.
        weights: (R, N), at least 0.

    Returns:
        (R,); NaN where no pair's order is known.
    """
    ends, seen = np.abs(times), times > 0
    later = (ends[:, None] < ends) | (
        (ends[:, None] == ends) & ~seen
    )  # j outlives i, or is lost as i has the event
    known = seen[:, None] & later
    right = known * (0.5 * (risks[:, None] == risks) + (risks[:, None] > risks))
    with np.errstate(invalid="ignore"):
        return np.asarray(((weights @ right) * weights).sum(1) / ((weights @ known) * weights).sum(1))


def survival_scores(
    times: np.ndarray, risks: np.ndarray, subjects: np.ndarray, *, widening: float = 1.0, seed: int = 0
) -> dict[str, Estimate]:
    """The concordance with its 95 % interval by a bootstrap of subjects, those with an event and the others apart.

    Raises:
        DataError: fewer than `MIN_SUBJECTS` subjects with an event.
    """
    names, index = np.unique(subjects, return_inverse=True)
    ever = np.zeros(len(names), dtype=bool)
    np.logical_or.at(ever, index, times > 0)
    if int(ever.sum()) < MIN_SUBJECTS:
        raise DataError(
            f"{int(ever.sum())} subjects with the event: an interval needs {MIN_SUBJECTS}",
            mend="follow more subjects",
        )
    rng = numpy_generator(seed, "bootstrap")
    counts = np.zeros((REPLICATES, len(names)))
    for members in (np.flatnonzero(ever), np.flatnonzero(~ever)):
        if len(members):
            shares = np.full(len(members), 1 / len(members))
            counts[:, members] = rng.multinomial(len(members), shares, REPLICATES)
    figure = bootstrap_estimate(
        lambda w: concordance(times, risks, w), counts[:, index], (int(ever.sum()),), widening=widening
    )
    return {"concordance": figure}
