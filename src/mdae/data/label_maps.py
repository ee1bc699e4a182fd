"""Telling label maps from scans: by their names, by their folders, and by their voxels.

Names: those of BIDS, nnU-Net, the Medical Segmentation Decathlon, TotalSegmentator, KiTS, LiTS, FreeSurfer and what
people write. Voxels: few distinct values, in regions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from mdae.data.formats import scan_stem
from mdae.data.names import CONTRAST, NEXT_ENTITY, SUBJECT_FOLDER, without_prefix

REASON = "a mask or segmentation by its "
MEND = "nothing, or take it with --keep-labels"

FREESURFER = (".mgz", ".mgh")
# FreeSurfer's volumes of intensities, whatever else their names say: brainmask.mgz is the brain, not its mask.
INTENSITIES = re.compile(
    r"(brain(mask)?(\.(auto|finalsurfs|manual|edit(ed)?|loose))*|t1|t2|flair|orig|orig_nu|nu|nu_noneck|norm|rawavg|antsdn|\d{3})"
    r"(\.(orig|prenorm|norm|raw|mri))*",
    re.IGNORECASE,
)
WORDS = (
    r"segs?|segm|segment(ation)?s?|labels?|labelmaps?|masks?|msk|rois?|vois?|lesions?|gt|groundtruth|truth|parc|parcellations?"
    r"|annotations?|annot|delineations?|contours?|wmh|dseg|probseg|pveseg|mixeltype"
)
LAST = re.compile(rf"{WORDS}|\w*(mask|seg|segmentation|label|labels|labelmap|parc)|lesion\w*", re.IGNORECASE)
FIRST = re.compile(rf"({WORDS})\d*", re.IGNORECASE)
ANYWHERE = re.compile(
    r"aparc\w*|aseg\w*|wmparc\w*|ribbon|dseg|probseg|defacemask|defacingmask|groundtruth|labelmap",
    re.IGNORECASE,
)
ILL = re.compile(r"(lesion|tumou?r|infarct|stroke|hippocamp\w*|brain)s?", re.IGNORECASE)
FREESURFER_MAPS = re.compile(r"(wm|filled|ctrl_pts|surface)(\..*)?|.*labels.*|.*\.label", re.IGNORECASE)
# What may stand behind the word: numbers, sides, who drew it and where.
BEHIND = re.compile(
    r"\d+|l|r|lh|rh|left|right|manual|auto|final|bin|binary|consensus|native|space|mni\w*|corrected|edited"
    r"|(rater|reader|expert|annotator|observer|obs|v|r)\d*",
    re.IGNORECASE,
)
FOLDER = re.compile(
    r"(gt|seg|mask|label|segmentation|roi|annotation|annot|delineation|contour|prediction|pred|ground[-_ ]?truth)s?"
    r"([-_ ]?(tr|ts|va|val|train|test|training|testing|validation|masks?|labels?|maps?|files|nii|nifti|manual|auto"
    r"|native|\d+))?"
    r"|(labels|segmentations|masks|segs?|gt)[-_ ].+"
    r"|.+[-_ ](labels?|masks?|segmentations?|segs?|gt|rois?|annotations?)",
    re.IGNORECASE,
)

FEW = 256  # distinct values at most: whole-body and cortical atlases have 100 to 200
ANY_KIND = 16  # up to so many may be of any kind: labels that were rescaled
NESTED = 4  # up to so many may be slivers
IN_REGIONS = 0.7  # least share of equal neighbours among voxels off the background
MOST = 0.7  # share of values whose own voxels have to lie in regions
SAMPLE = 4096  # voxels that spare most scans a closer look
BLOCK = 48  # voxels a side of the middle, which spares nearly all others one


def label_map_by_name(path: Path, folders: Sequence[str]) -> str | None:
    """Why a file is taken for a label map by its name, or by a folder's; None if neither says so.

    Args:
        path: the file.
        folders: names of the folders between the source and the file.
    """
    named = next(
        (name for name in folders if FOLDER.fullmatch(name) and not SUBJECT_FOLDER.match(name)), None
    )
    if named is not None:
        return f"{REASON}folder {named}"
    return f"{REASON}name" if _named(scan_stem(path), path.suffix.lower(), folders) else None


def _named(stem: str, suffix: str, folders: Sequence[str]) -> bool:
    if suffix in FREESURFER:
        if INTENSITIES.fullmatch(stem):
            return False
        if FREESURFER_MAPS.fullmatch(stem):
            return True
    if SUBJECT_FOLDER.match(stem):  # a subject may be called anything
        chunks = NEXT_ENTITY.split(stem)
        if any(chunk.lower().startswith("label-") for chunk in chunks[1:]):
            return True
        stem = "_".join(chunk.split("-", 1)[-1] for chunk in chunks[1:]) or chunks[0].rpartition("_")[2]
    stem = without_prefix(stem, folders)
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", stem)  # lesionMask
    words = [word for word in re.split(r"[-_. +]+", spaced) if word]
    if any(ANYWHERE.fullmatch(word) for word in words):
        return True
    if any(ILL.fullmatch(word) and FIRST.fullmatch(after) for word, after in pairwise(words)):
        return True
    while len(words) > 1 and BEHIND.fullmatch(words[-1]):
        words.pop()
    if not words:
        return False
    return bool(LAST.fullmatch(words[-1])) or bool(
        FIRST.fullmatch(words[0]) and not CONTRAST.fullmatch(words[-1])
    )


def label_map_by_voxels(data: np.ndarray) -> str | None:
    """Why a volume (D, H, W) is taken for a label map; None if it is a scan.

    Two distinct values are a mask. Up to 256 whole numbers (or 16 values of any kind, as of rescaled labels) are a
    label map if they lie in regions: most neighbours off the background are equal along every axis, and of most values
    so are half their own. Brightness that rises step by step, as in a quantised scan, is none.
    """
    flat = data.reshape(-1) if data.flags.c_contiguous else data.T.reshape(-1)
    if len(np.unique(flat[:: max(1, flat.size // SAMPLE)])) > FEW:
        return None
    if _noisy(data):
        return None
    values = _distinct(flat)
    if values is None:
        return None
    whole = bool((values == np.round(values)).all())
    if len(values) > 2 and not ((whole or len(values) <= ANY_KIND) and _in_regions(data, values)):
        return None
    return f"{REASON}voxels: {len(values)} distinct {'whole numbers' if whole else 'values'}"


def _noisy(data: np.ndarray) -> bool:
    """Whether the middle is no label map already, so that scans of 8 bits need not be looked through."""
    middle = data[
        tuple(
            slice(side // 2 - min(side, BLOCK) // 2, side // 2 + -(-min(side, BLOCK) // 2))
            for side in data.shape
        )
    ]
    values = np.unique(middle)
    return len(values) > FEW or (len(values) > 2 and not _in_regions(middle, values))


def _distinct(flat: np.ndarray) -> np.ndarray | None:
    """The distinct values, sorted, or None as soon as they are many; a pass of blocks, since sorting all is slow."""
    found = np.empty(0, flat.dtype)
    for start in range(0, flat.size, 1 << 18):
        block = flat[start : start + (1 << 18)]
        new = block[~np.isin(block, found)] if len(found) else block
        found = np.union1d(found, new)
        if len(found) > FEW:
            return None
    return found


def _in_regions(data: np.ndarray, values: np.ndarray) -> bool:
    """Whether voxels off the most frequent value mostly equal their neighbours, and so do those of nearly every value.

    A brightness that rises along an axis may be flat along the others, hence each axis counts.
    """
    ranks = np.searchsorted(values, data)
    counts = np.bincount(ranks.reshape(-1), minlength=len(values))
    background = int(counts.argmax())
    flat = np.ones(len(values), dtype=bool)
    for axis in range(3):
        lines = np.moveaxis(ranks, axis, 0)
        before, equal = lines[:-1], lines[1:] == lines[:-1]
        off = (before != background) & (lines[1:] != background)
        if off.any() and equal[off].mean() < IN_REGIONS:
            return False
        number = np.bincount(before.reshape(-1), minlength=len(values))
        own = np.bincount(before[equal], minlength=len(values))
        flat &= own >= 0.5 * number
    if len(values) <= NESTED:
        return True
    flat[background] = False
    return bool(flat.sum() >= MOST * (len(values) - 1))
