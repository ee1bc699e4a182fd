"""Who is pre-trained on, who is learned from and who is tested: of a made-up cohort, or of one's own scans and masks.

What is labelled becomes raw data sets in nnU-Net's layout, one a contrast, with the table of their split beside: `mdae
evaluate --task` gives any other encoder the same trial.
"""

from __future__ import annotations

import csv
import os
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mdae.data.anatomy import TISSUES
from mdae.data.catalogue import ScanEntry, safe_name
from mdae.data.intensity import ZScore
from mdae.data.label_file import read_label_map
from mdae.data.preprocess import Preprocessing
from mdae.data.sources import list_source
from mdae.data.synth import SynthConfig, synthesise, tissue_labels
from mdae.errors import DataError, ScanError
from mdae.files import atomic_write, write_json
from mdae.inference.config import FitConfig
from mdae.inference.mask_cases import find_masks
from mdae.interop.raw import read_raw
from mdae.report.config import DemoConfig
from mdae.seeding import numpy_generator
from mdae.tasks.case import Case
from mdae.tasks.nnunet_raw import DESCRIPTION, is_nnunet_raw, read_description
from mdae.text import counted

SIZES = (1, 2, 4)  # labelled subjects to learn from
POOL, TESTED = 8, 12  # subjects of whom these are drawn, and others who are tested, at most
FEWEST = 5  # tested subjects, below which an interval means nothing
SEEN, LABELLED = ("T1w", "T2w"), ("T2w", "FLAIR")  # of the made-up cohort: pre-trained on, and segmented in
SPACING_MM = 3.0  # of the made-up cohort
WARP_MM = 4.0  # its displacements: far enough that the place alone does not tell a structure
PREPARED = Preprocessing(spacing_mm=(SPACING_MM, SPACING_MM, SPACING_MM))
NOISE = (0.08, 0.15)  # of it, where grey and white matter differ by 0.14 to 0.3: one voxel tells little
SIDE = 80  # voxels along the longest side of one's own scans
SCAN = "scan"  # where nobody knows the contrast
SMALL_MM = 100.0  # the longest side of crops, in which there is no head to look for


@dataclass(frozen=True)
class Labelled:
    """What the demo works on.

    Attributes:
        source: scans to pre-train on, of none of the people below.
        preprocessing: of all scans.
        tasks: folders of raw data sets in nnU-Net's layout, one a contrast; none without masks.
        split: table of who is learned from (train) and who is tested (test).
        learned, tested: their names.
    """

    source: Path
    preprocessing: Preprocessing
    tasks: tuple[Path, ...] = ()
    split: Path = Path()
    learned: tuple[str, ...] = ()
    tested: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of subjects to learn from."""
        return tuple(size for size in SIZES if size <= len(self.learned))


def made_up(config: DemoConfig) -> Labelled:
    """Two cohorts without a subject in common: one to pre-train on, without labels, and one with its tissues."""
    cohorts, folder = config.out / "cohort", config.out / "tasks"
    source = cohort(cohorts / "pretraining", config.made_up, SEEN, 2 * config.seed)
    labelled = cohort(cohorts / "labelled", POOL + TESTED, LABELLED, 2 * config.seed + 1)
    tasks = tissue_tasks(folder, labelled, POOL + TESTED, LABELLED)
    names = subjects_of(POOL + TESTED)
    return Labelled(
        source=source,
        preprocessing=PREPARED,
        tasks=tasks,
        split=write_split(folder / "split.csv", names[:POOL], names[POOL:]),
        learned=tuple(names[:POOL]),
        tested=tuple(names[POOL:]),
    )


def subjects_of(number: int) -> list[str]:
    """The names of a made-up cohort's subjects."""
    return [f"sub-{place:04d}" for place in range(1, number + 1)]


def cohort(out: Path, subjects: int, contrasts: tuple[str, ...], seed: int) -> Path:
    """Made-up subjects without lesions whose anatomy is displaced and whose scans are noisy; no voxel tells much."""
    return synthesise(
        SynthConfig(
            out=out,
            subjects=subjects,
            contrasts=contrasts,
            seed=seed,
            lesion_fraction=0.0,
            spacing_mm=SPACING_MM,
            warp_mm=WARP_MM,
            noise=NOISE,
        )
    )


def tissue_tasks(folder: Path, made: Path, number: int, contrasts: Iterable[str]) -> tuple[Path, ...]:
    """The tissues of a made-up cohort as raw data sets of nnU-Net's, one a contrast.

    Args:
        folder: to write them in, by contrast.
        made: the cohort.
        number: of its subjects.
        contrasts: of its scans.
    """
    labels = {"background": 0, **{name: value for value, name in TISSUES.items()}}
    for contrast in contrasts:
        cases = {
            name: (made / name / "anat" / f"{name}_{contrast}.nii.gz", tissue_labels(made, name))
            for name in subjects_of(number)
        }
        write_task(folder / contrast, contrast, cases, {"labels": labels})
    return tuple(folder / contrast for contrast in contrasts)


def own(config: DemoConfig, source: Path) -> Labelled:
    """One's own scans, of which those of some people have masks.

    One mask a person is used, the first that is not empty. Scans of people who are neither learned from nor tested are
    pre-trained on, without their masks if they have any.

    Args:
        config: of the demo.
        source: of its scans.

    Raises:
        DataError: masks of too few people, or no scan of anybody else.
    """
    entries = list_source(source, subjects=config.subjects).entries
    preprocessing = contract_of(entries)
    if config.masks is None:
        return Labelled(_manifest(config.out / "pretraining.csv", entries), preprocessing)
    contrasts, cases = _with_masks(config, config.masks, source)
    learned, tested = parted(sorted(cases), config.seed, where=config.masks)
    used = {safe_name(name): cases[name] for name in (*learned, *tested)}
    others = _others(entries, used.values())
    if not others:
        raise DataError(
            "every scan is of somebody who is learned from or tested, and none is left to pre-train on",
            where=source,
            mend="add scans without masks",
        )
    folder, described = config.out / "tasks", _described(config.masks, used.values())
    for contrast in contrasts:
        files = {name: (case.scans[contrast].path, mask_of(case)) for name, case in used.items()}
        write_task(folder / safe_name(contrast or SCAN), contrast or SCAN, files, described)
    learned, tested = ([safe_name(name) for name in part] for part in (learned, tested))
    return Labelled(
        source=_manifest(config.out / "pretraining.csv", others),
        preprocessing=preprocessing,
        tasks=tuple(folder / safe_name(contrast or SCAN) for contrast in contrasts),
        split=write_split(folder / "split.csv", learned, tested),
        learned=tuple(learned),
        tested=tuple(tested),
    )


def _with_masks(config: DemoConfig, masks: Path, source: Path) -> tuple[tuple[str, ...], dict[str, Case]]:
    """The contrasts to segment in, and of everybody the first case whose mask is not empty."""
    found = find_masks(
        FitConfig(
            encoder="",
            labels=masks,
            out=config.out,
            scans=source,
            subjects=config.subjects,
            contrasts=config.contrasts,
        )
    )
    cases: dict[str, Case] = {}
    for case in found.cases:
        if case.subject not in cases and len(_values(case)) > 1:
            cases[case.subject] = case
    return found.contrasts, cases


def parted(names: Sequence[str], seed: int, *, where: Path) -> tuple[list[str], list[str]]:
    """Who is learned from and who is tested, drawn at random: half of them each, but five tested at least.

    Args:
        names: of everybody with a mask.
        seed: of the draw.
        where: the masks lie, for errors.

    Raises:
        DataError: too few people.
    """
    if len(names) <= FEWEST:
        raise DataError(
            f"masks of {counted(len(names), 'subject')}, and {FEWEST + 1} are wanted, {FEWEST} of them to test",
            where=where,
            mend="draw more, or leave --masks out for the pre-training alone",
        )
    drawn = [names[index] for index in numpy_generator(seed, "parted").permutation(len(names))]
    pool = min(POOL, len(names) - FEWEST, max(SIZES[-1], len(names) // 2))
    return drawn[:pool], drawn[pool : pool + TESTED]


def contract_of(entries: Sequence[ScanEntry]) -> Preprocessing:
    """How one's own scans are prepared so that minutes are enough: coarse heads and bodies, crops as they are.

    Raises:
        DataError: none of a few scans can be read.
    """
    extents, spacings = [], []
    for entry in entries[:: max(1, len(entries) // FEWEST)]:
        try:
            raw = read_raw(entry)
        except ScanError:
            continue
        spacings.append(float(np.prod(raw.spacing_mm)) ** (1 / 3))
        extents.append(float(np.max(np.array(raw.data.shape) * raw.spacing_mm)))
    if not extents:
        raise DataError(
            "none of some scans can be read",
            where=entries[0].path,
            mend="mdae prepare SOURCE STORE --dry-run tells what there is",
        )
    extent = statistics.median(extents)
    step = round(max(statistics.median(spacings), extent / SIDE), 1)
    small: dict[str, Any] = {"crop": "none", "intensity": ZScore("box")} if extent < SMALL_MM else {}
    return Preprocessing(spacing_mm=(step, step, step), **small)


def mask_of(case: Case) -> Path:
    """The file of a case that has one."""
    assert case.mask is not None  # as `find_masks` finds them
    return case.mask


def _values(case: Case) -> set[int]:
    """What occurs in a case's mask, 0 with it."""
    return {0, *map(int, np.unique(read_label_map(mask_of(case))[0]))}


def _described(masks: Path, cases: Iterable[Case]) -> dict[str, Any]:
    """What nnU-Net's description says of labels: as it is there, else a number each."""
    if is_nnunet_raw(masks):
        about = read_description(masks)
        return {name: about[name] for name in ("labels", "regions_class_order") if name in about}
    values = sorted(set().union(*map(_values, cases)) - {0})
    return {"labels": {"background": 0, **{f"label {value}": value for value in values}}}


def _others(entries: Sequence[ScanEntry], used: Collection[Case]) -> list[ScanEntry]:
    """The scans of people who are neither learned from nor tested, by name and by file."""
    people = {case.subject for case in used}
    files = {scan.path for case in used for scan in case.scans.values()}
    of_files = {entry.subject for entry in entries if entry.path in files}
    return [entry for entry in entries if entry.subject not in people | of_files]


def _manifest(path: Path, entries: Iterable[ScanEntry]) -> Path:
    rows = [(entry.path.absolute(), entry.subject, entry.session, entry.contrast) for entry in entries]
    return _table(path, ("path", "subject", "session", "contrast"), rows)


def write_split(path: Path, learned: Iterable[str], tested: Iterable[str]) -> Path:
    """The table of who is in train and who is in test."""
    return _table(
        path, ("subject", "split"), [*((n, "train") for n in learned), *((n, "test") for n in tested)]
    )


def _table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_task(
    folder: Path, contrast: str, cases: Mapping[str, tuple[Path, Path]], labels: Mapping[str, Any]
) -> None:
    """Describe labelled scans as a raw data set of nnU-Net's, files where they lie.

    Args:
        folder: to write.
        contrast: of the scans.
        cases: the scan and the mask of each subject.
        labels: what the description says of them.
    """
    listed = {
        name: {"images": [_relative(scan, folder)], "label": _relative(mask, folder)}
        for name, (scan, mask) in cases.items()
    }
    about = {
        "channel_names": {"0": contrast},
        **labels,
        "numTraining": len(listed),
        "file_ending": ".nii.gz",
        "dataset": listed,
    }
    write_json(folder / DESCRIPTION, about)


def _relative(path: Path, folder: Path) -> str:
    """A path as seen from a folder, so that both may be moved together."""
    return os.path.relpath(path.absolute(), folder.absolute())
