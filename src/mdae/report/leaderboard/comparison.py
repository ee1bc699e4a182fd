"""What a leaderboard says, before it is written anywhere: figures, differences from the baseline, averages, remarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mdae.errors import ConfigError, DataError
from mdae.evaluation.features.clinical import CLINICAL
from mdae.evaluation.features.extractors import OF_VOXELS, POSITION, UNTRAINED
from mdae.evaluation.features.histogram import BASELINE
from mdae.evaluation.features.small_cnn import CNN
from mdae.evaluation.results.paired import (
    NOT_COMPARED,
    Difference,
    SubjectDraws,
    average,
    compare,
    compare_averages,
    sign_of,
)
from mdae.evaluation.results.reader import Cell
from mdae.evaluation.statistics.intervals import Estimate
from mdae.evaluation.statistics.tests import holm
from mdae.tasks.record import Reference

SCENARIOS = ("in-domain", "cross-modality", "multi-modal", "segmentation")


@dataclass(frozen=True)
class Entry:
    """One figure of one cell.

    Attributes:
        cell, metric, estimate: the figure.
        difference: from the baseline's; None for the baseline itself, and where they cannot be compared.
        p_holm: adjusted over the encoder's cells of this metric and protocol.
        reason: why there is no difference.
    """

    cell: Cell
    metric: str
    estimate: Estimate
    difference: Difference | None = None
    p_holm: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Mean:
    """An encoder's mean of a figure over the cells of a group.

    Attributes:
        protocol, group, encoder, metric: of what.
        estimate: the mean over the cells that the encoder has.
        num_cells, of_cells: how many those are, and how many any encoder has; unequal means are not ranked.
        difference: the mean difference from the baseline, over the cells that both have.
        p_holm: adjusted over all encoders and groups of this protocol.
    """

    protocol: str
    group: str
    encoder: str
    metric: str
    estimate: Estimate
    num_cells: int
    of_cells: int
    difference: Difference | None = None
    p_holm: float | None = None

    @property
    def complete(self) -> bool:
        return self.num_cells == self.of_cells


@dataclass(frozen=True)
class Leaderboard:
    """All of it.

    Attributes:
        baseline, metric: as asked for.
        cells: everything that was read, refused ones too.
        entries: every figure of every cell.
        means: of the headline figures.
    """

    baseline: str
    metric: str
    cells: list[Cell]
    entries: list[Entry]
    means: list[Mean]

    @property
    def protocols(self) -> list[str]:
        return list(dict.fromkeys(cell.protocol for cell in self.cells))

    def groups(self, protocol: str) -> list[str]:
        """Scenarios, the paper's first."""
        found = dict.fromkeys(mean.group for mean in self.means if mean.protocol == protocol)
        return sorted(
            found, key=lambda group: SCENARIOS.index(group) if group in SCENARIOS else len(SCENARIOS)
        )

    def encoders(self, protocol: str) -> list[str]:
        """Best first by the mean over all cells of the ranking figure; who lacks cells comes last, unranked."""
        return sorted(
            dict.fromkeys(cell.encoder for cell in self.cells if cell.protocol == protocol),
            key=lambda encoder: (not self.ranked(protocol, encoder), -self._quality(protocol, encoder)),
        )

    def ranked(self, protocol: str, encoder: str) -> bool:
        """Whether an encoder has every cell that any has."""
        places = {cell.place for cell in self.cells if cell.protocol == protocol and not cell.refused}
        own = {cell.place for cell in self.cells if cell.encoder == encoder and not cell.refused}
        return places <= own

    def _quality(self, protocol: str, encoder: str) -> float:
        own = [mean for mean in self.means if (mean.protocol, mean.encoder) == (protocol, encoder)]
        ranking = [mean for mean in own if mean.metric == self.metric] or own
        if not ranking:
            return -np.inf
        total = sum(mean.estimate.value * mean.num_cells for mean in ranking)
        return sign_of(ranking[0].metric) * total / sum(mean.num_cells for mean in ranking)

    def mean(self, protocol: str, group: str, encoder: str) -> Mean | None:
        wanted = (protocol, group, encoder)
        return next((m for m in self.means if (m.protocol, m.group, m.encoder) == wanted), None)

    def headline(self, protocol: str, task: str, contrast: str, encoder: str) -> Entry | None:
        """The entry that a cell is ranked by."""
        wanted = (encoder, protocol, task, contrast)
        return next((e for e in self.headlines() if (e.cell.encoder, *e.cell.place) == wanted), None)

    def headlines(self) -> Iterator[Entry]:
        """The entry of each cell that it is ranked by."""
        return (entry for entry in self.entries if entry.metric == headline_metric(entry.cell, self.metric))

    def trials(self, protocol: str, encoder: str) -> str:
        """With how many settings the weights of an encoder were scored on the same subjects, over its tasks.

        The same weights under other names count as well, whichever of them was scored last.
        """
        own = [cell for cell in self.cells if (cell.protocol, cell.encoder) == (protocol, encoder)]
        places = {_weights_on(cell) for cell in own}
        most = [
            max((c.trials for c in self.cells if _weights_on(c) == place and c.trials), default=None)
            for place in places
        ]
        known = sorted({number for number in most if number is not None})
        if not known:
            return "unknown"
        return str(known[0]) if known[0] == known[-1] else f"{known[0]} to {known[-1]}"

    def references(self) -> list[tuple[str, Reference]]:
        """Published scores by task."""
        tasks = {cell.task.name: cell.task for cell in self.cells}
        return [(name, reference) for name, task in tasks.items() for reference in task.references]


def headline_metric(cell: Cell, metric: str) -> str:
    """The wanted figure where the cell has it, else the task's own."""
    return metric if metric in cell.scores else cell.task.metric


def mark(encoder: str) -> str:
    """What an encoder's name says that a reader must not miss."""
    if encoder.startswith((BASELINE, *OF_VOXELS)):
        return "trivial baseline"
    if encoder.startswith(f"{CLINICAL}:"):
        return "no image"
    if encoder.partition("-")[0] == CNN:
        return "from scratch"
    return "not pre-trained" if encoder.startswith(UNTRAINED) else ""


def make_leaderboard(
    cells: Sequence[Cell], baseline: str, metric: str | None = None, seed: int = 0
) -> Leaderboard:
    """Compare every encoder with the baseline.

    Args:
        cells: of all encoders.
        baseline: one of them.
        metric: the ranking figure; AUROC, or else the first task's own, if None.
        seed: of the draws of subjects.

    Raises:
        ConfigError: no such baseline or figure.
        DataError: every cell is refused.
    """
    names = list(dict.fromkeys(cell.encoder for cell in cells))
    if baseline not in names:
        raise ConfigError(f"no results of {baseline!r}", mend=f"give --baseline one of {', '.join(names)}")
    figures = list(dict.fromkeys(name for cell in cells for name in cell.scores if name not in NOT_COMPARED))
    if not figures:
        raise DataError(f"nothing was scored: {cells[0].refused}", mend="evaluate on more subjects")
    if metric is None:
        metric = "auroc" if "auroc" in figures else next(c.task.metric for c in cells if c.scores)
    if metric not in figures:
        raise ConfigError(f"no task has the figure {metric!r}", mend=f"use one of {', '.join(figures)}")
    draws = SubjectDraws(cells, seed)
    entries = _entries(cells, baseline, draws)
    return Leaderboard(baseline, metric, list(cells), entries, _means(cells, baseline, metric, draws))


def _entries(cells: Sequence[Cell], baseline: str, draws: SubjectDraws) -> list[Entry]:
    """Every figure, compared with the baseline's; Holm over each encoder's cells of a figure and protocol."""
    opponents = {cell.place: cell for cell in cells if cell.encoder == baseline}
    entries = [
        _entry(cell, metric, estimate, None if cell.encoder == baseline else opponents.get(cell.place), draws)
        for cell in cells
        for metric, estimate in cell.scores.items()
    ]
    families: dict[tuple[str, str, str], list[int]] = {}
    for index, entry in enumerate(entries):
        if entry.difference is not None:
            family = (entry.cell.encoder, entry.cell.protocol, entry.metric)
            families.setdefault(family, []).append(index)
    for members in families.values():
        adjusted = holm([p for index in members if (p := _p(entries[index].difference)) is not None])
        for index, p in zip(members, adjusted, strict=True):
            entries[index] = replace(entries[index], p_holm=p)
    return entries


def _p(difference: Difference | None) -> float | None:
    return None if difference is None else difference.p


def _entry(cell: Cell, metric: str, estimate: Estimate, opponent: Cell | None, draws: SubjectDraws) -> Entry:
    if opponent is None or metric in NOT_COMPARED:
        return Entry(cell, metric, estimate)
    try:
        return Entry(cell, metric, estimate, compare(cell, opponent, metric, draws))
    except DataError as error:
        return Entry(cell, metric, estimate, reason=error.what)


def _means(cells: Sequence[Cell], baseline: str, metric: str, draws: SubjectDraws) -> list[Mean]:
    """Means over the cells of each group; Holm over all encoders and groups of a protocol."""
    sound = [cell for cell in cells if headline_metric(cell, metric) in cell.scores]
    shelves: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in sound:
        shelves.setdefault((cell.protocol, cell.group, headline_metric(cell, metric)), []).append(cell)
    means = []
    for (protocol, group, figure), members in shelves.items():
        places = {cell.place for cell in members}
        opponents = {cell.place: cell for cell in members if cell.encoder == baseline}
        for encoder in dict.fromkeys(cell.encoder for cell in members):
            own = [cell for cell in members if cell.encoder == encoder]
            pairs = [(cell, opponents[cell.place]) for cell in own if cell.place in opponents]
            difference = None if encoder == baseline else compare_averages(pairs, figure, draws)
            estimate = average(own, figure, draws)
            means.append(Mean(protocol, group, encoder, figure, estimate, len(own), len(places), difference))
    return _with_holm(means)


def _with_holm(means: list[Mean]) -> list[Mean]:
    adjusted = list(means)
    for protocol in dict.fromkeys(mean.protocol for mean in means):
        members = [i for i, mean in enumerate(means) if mean.protocol == protocol and mean.difference]
        p_values = [difference.p for i in members if (difference := means[i].difference) is not None]
        for index, p in zip(members, holm(p_values), strict=True):
            adjusted[index] = replace(means[index], p_holm=p)
    return adjusted


def _weights_on(cell: Cell) -> tuple[str, str]:
    """Whose weights a cell is of, on which task."""
    return cell.weights or cell.fingerprint, cell.task.name


def warnings(leaderboard: Leaderboard) -> Iterator[str]:
    """What makes a table less than fair, to be read before it."""
    yield from _without_baseline(leaderboard)
    for protocol in leaderboard.protocols:
        shown = {name: leaderboard.trials(protocol, name) for name in leaderboard.encoders(protocol)}
        if len(set(shown.values())) > 1:
            numbers = ", ".join(f"{name} {number}" for name, number in shown.items())
            yield (
                f"{protocol}: unequal numbers of configurations of the same weights on the same subjects ({numbers}); "
                "more trials find more by chance."
            )
    exposed = {(cell.encoder, cell.task.name): cell.exposure for cell in leaderboard.cells}
    for (encoder, task), exposure in exposed.items():
        if exposure.contaminated:
            yield f"{task} is not unseen to {encoder}: {exposure.what}."
    unknown: dict[tuple[str, str], list[str]] = {}
    for (encoder, task), exposure in exposed.items():
        if exposure.mark == "unknown":
            unknown.setdefault((encoder, exposure.what), []).append(task)
    for (encoder, what), tasks in unknown.items():
        yield f"Unknown whether {encoder} was pre-trained on people of {', '.join(tasks)}: {what}."
    seen = {(cell.encoder, cell.task.name): cell.seen for cell in leaderboard.cells if cell.seen}
    for (encoder, task), number in seen.items():
        yield f"{number} scans of {task} were in the pre-training of {encoder}: to it they are not unseen."


def _without_baseline(leaderboard: Leaderboard) -> Iterator[str]:
    """Which trivial baseline is missing: of whole scans an intensity histogram, of masks the place and intensities."""
    baselines = ("trivial baseline", "from scratch")
    trivial = {cell.protocol for cell in leaderboard.cells if mark(cell.encoder) in baselines}
    whole = {cell.protocol for cell in leaderboard.cells if cell.task.kind != "segmentation"}
    if whole == {"finetune"} and not trivial:
        yield (
            "No trivial baseline is among these results, so nobody can tell what a small network would learn from the "
            f"labels alone. `mdae evaluate --encoder {CNN} --task TASK --data FOLDER` adds one."
        )
    elif whole and not trivial & whole:
        yield (
            "No trivial baseline is among these results, so nobody can tell what an intensity histogram would reach. "
            f"`mdae evaluate --encoder {BASELINE} --task TASK --data FOLDER` adds one."
        )
    few = dict.fromkeys(cell.protocol for cell in leaderboard.cells if cell.task.kind == "segmentation")
    for protocol in few:
        if protocol not in trivial and not protocol.startswith("nnunet"):
            beside = " --with-position" if protocol.endswith("+position") else ""
            yield (
                f"No trivial baseline is among the results of {protocol}, so nobody can tell what the place in the "
                f"scan and the intensities would reach. `mdae evaluate --encoder {POSITION}:MODEL --protocol "
                f"{protocol.partition('+')[0]}{beside} --task TASK`, of a model whose way to prepare scans it takes, "
                "adds one."
            )


def remarks(leaderboard: Leaderboard) -> Iterator[str]:
    """What else a reader of the table should know: how was chosen, and what could not be compared."""
    for protocol in leaderboard.protocols:
        cells = [cell for cell in leaderboard.cells if cell.protocol == protocol]
        if not any(cell.encoder == leaderboard.baseline for cell in cells):
            yield f"{leaderboard.baseline} has no results by {protocol}, so nothing is compared there."
        ways = dict.fromkeys(cell.selection for cell in cells if cell.selection)
        for way in ways:
            who = dict.fromkeys(cell.encoder for cell in cells if cell.selection == way)
            yield f"{protocol}{'' if len(ways) == 1 else ' of ' + ', '.join(who)}: {way}."
    yield from _gaps(leaderboard)


def _gaps(leaderboard: Leaderboard) -> Iterator[str]:
    """Refusals, comparisons that could not be made, and those on fewer subjects than were scored."""
    refused: dict[tuple[str, ...], list[str]] = {}
    for cell in leaderboard.cells:
        if cell.refused:
            refused.setdefault((*cell.place, cell.refused), []).append(cell.encoder)
    for (protocol, task, contrast, reason), encoders in refused.items():
        yield f"{task}, {contrast}, {protocol}: refused for {', '.join(encoders)}, {reason}."
    for entry in leaderboard.headlines():
        cell, where = entry.cell, f"{entry.cell.encoder}, {entry.cell.task.name}, {entry.cell.contrast}"
        if entry.reason:
            yield f"{where}, {cell.protocol}: not compared, {entry.reason}."
        elif entry.difference and entry.difference.num_subjects < len(cell.subjects):
            yield (
                f"{where}, {cell.protocol}: compared on the {entry.difference.num_subjects} of "
                f"{len(cell.subjects)} subjects that the baseline has too."
            )
