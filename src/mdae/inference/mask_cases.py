"""Masks and the scans that they lie on: of an nnU-Net raw data set, or of two folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mdae.data.catalogue import ScanEntry
from mdae.data.contrasts import by_channel
from mdae.data.formats import is_scan, scan_stem
from mdae.data.mask_names import mask_name, visit_name
from mdae.data.sources import list_source
from mdae.data.subject_table import with_subjects
from mdae.errors import DataError
from mdae.evaluation.nnunet.labels import LabelScheme, described_labels, found_labels
from mdae.inference.config import FitConfig
from mdae.tasks.layouts import Case
from mdae.tasks.nnunet_raw import channel_names, is_nnunet_raw, nnunet_raw, read_description


@dataclass(frozen=True)
class Masks:
    """Labelled cases.

    Attributes:
        cases: with a mask and a scan of every contrast.
        contrasts: in the order in which they stand side by side.
        described: what `dataset.json` says of the labels; None where nobody has described them.
    """

    cases: list[Case]
    contrasts: tuple[str, ...]
    described: LabelScheme | None

    def scheme(self, values: set[int]) -> LabelScheme:
        """The labels, of masks that hold these values."""
        return self.described or found_labels(values)


def is_masks(labels: Path) -> bool:
    """Whether LABELS is a folder of masks or an nnU-Net raw data set, rather than a table or a BIDS tree."""
    if not labels.is_dir():
        return False
    return is_nnunet_raw(labels) or any(is_scan(path) for path in labels.rglob("*"))


def find_masks(config: FitConfig, channels: tuple[str, ...] = ()) -> Masks:
    """The cases that LABELS and the scans come to.

    Args:
        config: what was asked for.
        channels: the contrasts that the encoder sees at once, of which a case may lack some.

    Raises:
        DataError: no mask with a scan, or a choice between contrasts.
    """
    described = None
    if is_nnunet_raw(config.labels):
        about = read_description(config.labels)
        cases = [case for case in nnunet_raw(config.labels) if case.mask is not None]
        contrasts = config.contrasts or tuple(channel_names(about))
        described = described_labels(about)
        if config.subjects is not None:
            cases = _of_people(cases, config.subjects, config.labels)
    else:
        cases, contrasts = _two_folders(config, channels)
    if channels:
        contrasts = channels
        named = [_of_channels(case, config.contrasts, channels) for case in cases]
        cases = [case for case in named if case.scans]
    else:
        cases = [_of_contrasts(case, contrasts) for case in cases if set(contrasts) <= set(case.scans)]
    if not cases:
        raise DataError(
            f"no mask with a scan of {', '.join(contrasts)}",
            where=config.labels,
            mend="check the files' names, or name --contrasts",
        )
    return Masks(cases, contrasts, described)


def _of_people(cases: Sequence[Case], table: Path, root: Path) -> list[Case]:
    """Cases of the subjects that a table tells; several may be of one."""
    entries = [next(iter(case.scans.values())) for case in cases if case.scans]
    people = {entry.path: entry.subject for entry in with_subjects(entries, table, root)}
    return [
        replace(case, subject=people[next(iter(case.scans.values())).path]) for case in cases if case.scans
    ]


def _of_contrasts(case: Case, contrasts: Sequence[str]) -> Case:
    return replace(case, scans={name: case.scans[name] for name in contrasts})


def _of_channels(case: Case, contrasts: Sequence[str], channels: Sequence[str]) -> Case:
    """The case with those of its scans, or of these contrasts of it, that a channel takes, by channel."""
    named = by_channel([name for name in case.scans if not contrasts or name in contrasts], channels)
    return replace(case, scans={channel: case.scans[name] for channel, name in named.items()})


def _two_folders(config: FitConfig, channels: tuple[str, ...]) -> tuple[list[Case], tuple[str, ...]]:
    """The cases of a folder of masks and one of scans; of channels, with all scans of their session."""
    if config.scans is None:
        raise DataError("masks without their scans", where=config.labels, mend="name the scans with --scans")
    masks = {path: mask_name(path) for path in sorted(config.labels.rglob("*")) if is_scan(path)}
    listed = list_source(config.scans, subjects=config.subjects).entries
    entries = [entry for entry in listed if entry.path not in masks and not entry.slices]
    contrasts = channels or _contrasts(entries, config)
    by_name, by_visit = _index(entries)
    sessions: dict[tuple[str, str], dict[str, ScanEntry]] = {}
    for entry in entries:
        sessions.setdefault((entry.subject, entry.session), {}).setdefault(entry.contrast, entry)
    cases: dict[str, Case] = {}
    missing = []
    for path, name in masks.items():
        scans = by_name.get(name) or by_visit.get(visit_name(name))
        if not scans:
            missing.append(path)
            continue
        first = next(iter(scans.values()))
        key = f"{first.subject}\0{first.session}\0{name}"
        own = sessions[first.subject, first.session] if channels else scans
        cases[key] = Case(first.subject, dict(own), mask=path)
    if not cases:
        raise DataError(
            f"none of {len(masks)} masks has the name of one of {len(entries)} scans, "
            f"e.g. {missing[0].name} and {entries[0].path.name}",
            where=config.labels,
            mend="call masks as their scans, with _mask or _seg behind if you like",
        )
    return list(cases.values()), contrasts


def _contrasts(entries: Sequence[ScanEntry], config: FitConfig) -> tuple[str, ...]:
    found = tuple(sorted({entry.contrast for entry in entries}))
    if config.contrasts or len(found) == 1:
        return config.contrasts or found
    raise DataError(
        f"scans of {len(found)} contrasts ({', '.join(found[:8])})",
        where=config.scans,
        mend="name one with --contrasts, or several to put side by side",
    )


def _index(
    entries: Sequence[ScanEntry],
) -> tuple[Mapping[str, Mapping[str, ScanEntry]], Mapping[str, Mapping[str, ScanEntry]]]:
    """Scans by contrast, by the name that a mask of them may have, and by subject and session in BIDS's manner."""
    by_name: dict[str, dict[str, ScanEntry]] = {}
    by_visit: dict[str, dict[str, ScanEntry]] = {}
    for entry in entries:
        by_name.setdefault(mask_name(entry.path), {})[entry.contrast] = entry
        if visit := visit_name(scan_stem(entry.path)):
            by_visit.setdefault(visit, {}).setdefault(entry.contrast, entry)
    return by_name, by_visit
