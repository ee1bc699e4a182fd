"""FreeSurfer's tree: `SUBJECT/mri/T1.mgz` and `SUBJECT/mri/orig/001.mgz`, wherever in a source it lies."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mdae.data.formats import scan_stem
from mdae.data.label_maps import FREESURFER, INTENSITIES
from mdae.data.names import NEUTRAL, PlainName, plain_name

VOLUMES, ACQUIRED = "mri", "orig"


class OfSubject(NamedTuple):
    """A volume of a subject of FreeSurfer's: what the subject's folder tells, its contrast, and the folders above."""

    folder: PlainName
    contrast: str
    above: tuple[str, ...]


def freesurfer_volumes(paths: Iterable[Path], root: Path) -> dict[Path, OfSubject]:
    """Those that lie in a subject's folder `mri`, in which at least one volume is called as FreeSurfer calls it.

    Args:
        paths: scans below `root`.
        root: the source, which may be a subject's folder or its `mri` too.
    """
    outside = root.resolve().parts[-2:]
    found: dict[Path, OfSubject] = {}
    folder_of: dict[Path, tuple[str, ...]] = {}
    theirs: set[tuple[str, ...]] = set()
    for path in paths:
        stem, below = scan_stem(path), path.relative_to(root).parts[:-1]
        acquired = below[-1:] == (ACQUIRED,)
        folders = (*outside, *below)[: -1 if acquired else None]
        if path.suffix.lower() not in FREESURFER or len(folders) < 2 or folders[-1] != VOLUMES:
            continue
        told, depth = plain_name(folders[-2]), len(folders) - 2 - len(outside)
        if depth < 0:  # the source itself or what it lies in, which has no other name
            told = PlainName(told.identity or folders[-2], "", told.session)
        if not told.identity or (depth >= 0 and NEUTRAL.fullmatch(folders[-2])):
            continue
        if INTENSITIES.fullmatch(stem) and stem.isdigit() == acquired:
            theirs.add(folders)
        folder_of[path] = folders
        found[path] = OfSubject(told, f"{ACQUIRED}-{stem}" if acquired else stem, below[: max(0, depth)])
    return {path: own for path, own in found.items() if folder_of[path] in theirs}
