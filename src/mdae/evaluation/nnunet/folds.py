"""Who trains, who validates and who is tested, by subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mdae.errors import ConfigError
from mdae.seeding import numpy_generator


@dataclass(frozen=True)
class Fold:
    """The identifiers of each part of one training.

    Attributes:
        number: of the fold.
        train, val, test: nobody is in two.
    """

    number: int
    train: list[str]
    val: list[str]
    test: list[str]


def cross_validation(
    case_ids: Sequence[str], number: int, seed: int, people: Sequence[str] | None = None
) -> list[Fold]:
    """Each case is tested once; the fold after the tested one validates, the others train.

    Args:
        case_ids: of the cases.
        number: of folds.
        seed: of who is in which.
        people: whose the cases are, for nobody to be in two parts; each its own person if not given.

    Raises:
        ConfigError: fewer than three folds, or fewer people than folds.
    """
    whose = dict(zip(case_ids, people or case_ids, strict=True))
    names = list(dict.fromkeys(whose.values()))
    if number < 3 or len(names) < number:
        raise ConfigError(
            f"{number} folds of {len(names)} subjects: one is tested, one validates, others train",
            mend="use 3 --folds or more, and as many subjects, or --split",
        )
    order = numpy_generator(seed, "nnunet folds").permutation(len(names))
    drawn = [{names[index] for index in part} for part in np.array_split(order, number)]
    parts = [sorted(case for case in case_ids if whose[case] in part) for part in drawn]
    folds = []
    for test in range(number):
        val = (test + 1) % number
        train = sorted(name for part in range(number) if part not in (test, val) for name in parts[part])
        folds.append(Fold(test, train, parts[val], parts[test]))
    return folds


def given_split(
    case_ids: Sequence[str], parts: Sequence[str], seed: int, people: Sequence[str] | None = None
) -> Fold:
    """The fold of a split; without val cases, a fifth of the train cases validates.

    Args:
        parts: train, val, test or "" for each case.
        seed: of who validates.
        people: as in `cross_validation`.

    Raises:
        ConfigError: one train case, of whom none can validate, or no test case.
    """
    train, val, test = (
        [name for name, part in zip(case_ids, parts, strict=True) if part == wanted]
        for wanted in ("train", "val", "test")
    )
    if not val:
        whose = dict(zip(case_ids, people or case_ids, strict=True))
        names = list(dict.fromkeys(whose[name] for name in train))
        order = numpy_generator(seed, "nnunet validation").permutation(len(names))
        chosen = {names[index] for index in order[: max(1, len(names) // 5)]}
        val = sorted(name for name in train if whose[name] in chosen)
        train = [name for name in train if name not in val]
    if not train:
        raise ConfigError("the split leaves nobody to train on", mend="name more subjects as train")
    if not test:
        raise ConfigError("nobody is left of the split's test subjects", mend="name more subjects as test")
    return Fold(0, train, val, test)
