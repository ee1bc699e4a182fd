"""What the demo's curves say: gains with their intervals, which of them are decided, and what labels were saved."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

from mdae.evaluation.statistics.curve import curve_difference, curve_estimate
from mdae.evaluation.statistics.intervals import Estimate
from mdae.evaluation.statistics.tests import holm
from mdae.report.few_labels import ALONE, BESIDE, PRETRAINED, TRIVIAL, UNTRAINED, Curve
from mdae.text import counted

SURE = 0.05  # p after Holm's correction, below which a difference is decided
COLUMNS = (
    *("contrast", "seen_in_pretraining", "readout", "labelled_subjects"),
    *(
        f"{encoder}_{end}"
        for encoder in ("pretrained", "untrained", "trivial")
        for end in ("dice", "low", "high")
    ),
    *(f"less_{other}{end}" for other in ("untrained", "trivial") for end in ("", "_low", "_high", "_p_holm")),
)
Place = tuple[str, str, str, int]  # contrast, readout, the other encoder, number of labelled subjects


ENCODERS = (PRETRAINED, UNTRAINED, TRIVIAL)


def _numbers(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]


class Savings:
    """The curves, compared.

    Args:
        curves: of every contrast, encoder and readout.
        seen: contrasts that were pre-trained on.
    """

    def __init__(self, curves: Sequence[Curve], seen: Collection[str]) -> None:
        self.curves, self.seen = list(curves), set(seen)
        self.contrasts = list(dict.fromkeys(curve.contrast for curve in curves))
        self.sizes = sorted(curves[0].dice)

    def curve(self, contrast: str, encoder: str, readout: str) -> Curve:
        """The one of these; place and intensities have one for both readouts."""
        wanted = contrast, encoder, BESIDE if encoder == TRIVIAL else readout
        return next(own for own in self.curves if (own.contrast, own.encoder, own.readout) == wanted)

    def at(self, contrast: str, encoder: str, readout: str, size: int) -> Estimate:
        """Mean Dice over labels, its interval over test subjects and draws of labelled ones."""
        return curve_estimate(self.curve(contrast, encoder, readout).means(size))

    @cached_property
    def gains(self) -> dict[Place, tuple[Estimate, float]]:
        """By how much Dice after pre-training is above another's on the same draws and subjects, and p after Holm."""
        found = {}
        for place in itertools.product(self.contrasts, (ALONE, BESIDE), (UNTRAINED, TRIVIAL), self.sizes):
            contrast, readout, other, size = place
            own, twin = (self.curve(contrast, name, readout) for name in (PRETRAINED, other))
            found[place] = curve_difference(own.means(size), twin.means(size))
        adjusted = holm([p for _, p in found.values()])
        return {place: (gain, p) for (place, (gain, _)), p in zip(found.items(), adjusted, strict=True)}

    def familiar(self, contrast: str) -> str:
        """Whether a contrast was pre-trained on, in words."""
        return "seen in pre-training" if contrast in self.seen else "never seen in pre-training"

    def saving(self, contrast: str, readout: str) -> tuple[int, int, Estimate] | None:
        """With how few labelled subjects pre-training reaches what the untrained network has with more, at the best.

        Returns:
            Both numbers of labelled subjects, and by how much Dice after the fewer is above that after the more; None
            where no fewer labels reach as much.
        """
        own, other = (self.curve(contrast, name, readout) for name in (PRETRAINED, UNTRAINED))
        found = [
            (few, many, curve_difference(own.means(few), other.means(many))[0])
            for few, many in itertools.combinations(self.sizes, 2)
        ]
        reached = [row for row in found if row[2].value >= 0]
        return max(reached, key=lambda row: (row[1] / row[0], row[1]), default=None)

    def sentence(self, contrast: str, readout: str) -> str:
        """What labels were saved in a contrast by a readout, and whether that is decided."""
        saved = self.saving(contrast, readout)
        few, many = saved[:2] if saved else (self.sizes[-1], self.sizes[-1])
        own = self.at(contrast, PRETRAINED, readout, few).value
        other = self.at(contrast, UNTRAINED, readout, many).value
        said = f"with {counted(few, 'labelled subject')} the pre-trained network reaches Dice {own:.2f}, "
        if saved:
            said += f"the untrained one {other:.2f} with {many} (difference {saved[2].signed()})"
        else:
            said += f"the untrained one {other:.2f}: no label is saved"
        most = self.sizes[-1]
        bare = self.at(contrast, TRIVIAL, readout, most).value
        return (
            f"{contrast}, {self.familiar(contrast)}, {readout}: {said}. {self._sure(contrast, readout)} "
            f"Without a network, place and intensities reach {bare:.2f} with {most}."
        )

    def _sure(self, contrast: str, readout: str) -> str:
        """Which differences at equal numbers of labels are decided."""
        gains = {size: self.gains[contrast, readout, UNTRAINED, size] for size in self.sizes}
        sure = [f"{gain.value:+.2f} with {size}" for size, (gain, p) in gains.items() if p < SURE]
        if not sure:
            return "With equally many labels the difference is undecided."
        return f"With equally many labels the difference is decided: {', '.join(sure)}."

    def headline(self) -> str:
        """In how many of the comparisons labels were saved."""
        places = list(itertools.product(self.contrasts, (ALONE, BESIDE)))
        saved = sum(self.saving(*place) is not None for place in places)
        if not saved:
            return "Here pre-training saved no labels"
        return f"Pre-training saved labels in {saved} of {len(places)} comparisons"

    def table(self) -> tuple[list[str], list[list[str]], list[int]]:
        """For people: a header, a row a contrast, readout and number of labels, and the rows that are decided."""
        header = [
            "contrast",
            "readout",
            "labelled",
            *ENCODERS,
            "less untrained",
            "less place and intensities",
        ]
        lines: list[list[str]] = []
        strong = []
        for contrast, readout, size in itertools.product(self.contrasts, (ALONE, BESIDE), self.sizes):
            values = [str(self.at(contrast, encoder, readout, size)) for encoder in ENCODERS]
            gains = [self.gains[contrast, readout, other, size] for other in (UNTRAINED, TRIVIAL)]
            if gains[0][1] < SURE:
                strong.append(len(lines))
            marked = [gain.signed() + (" *" if p < SURE else "") for gain, p in gains]
            lines.append([contrast, readout, str(size), *values, *marked])
        return header, lines, strong

    def rows(self) -> Iterator[list[object]]:
        """Numbers by `COLUMNS`."""
        for contrast, readout, size in itertools.product(self.contrasts, (ALONE, BESIDE), self.sizes):
            values = [_numbers(self.at(contrast, encoder, readout, size)) for encoder in ENCODERS]
            gains = [self.gains[contrast, readout, other, size] for other in (UNTRAINED, TRIVIAL)]
            apart = [[*_numbers(gain), p] for gain, p in gains]
            yield [contrast, contrast in self.seen, readout, size, *itertools.chain(*values, *apart)]

    def to_dict(self, subjects: Sequence[str]) -> dict[str, Any]:
        """Every Dice behind the means, JSON-able.

        Args:
            subjects: the tested ones.
        """
        curves = [
            {
                "contrast": curve.contrast,
                "encoder": curve.encoder,
                "readout": curve.readout,
                "dice": {str(size): values.tolist() for size, values in curve.dice.items()},  # (draws, N, L)
            }
            for curve in self.curves
        ]
        return {"tested": list(subjects), "curves": curves}
