"""Which mask is of which scan, by their names: `P7_seg.nii.gz` is of `P7.nii.gz`, or of the only scan of a visit."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mdae.data.formats import scan_stem

# what is put behind a scan's name for its mask
MASK_WORDS = re.compile(
    r"(?:[_.-](?:mask|masks|seg|segs|dseg|segmentation|label|labels|lesion|lesions|roi|gt|label-[A-Za-z0-9]+"
    r"|desc-[A-Za-z0-9]+|space-[A-Za-z0-9]+))+$",
    re.IGNORECASE,
)
CHANNEL = re.compile(r"_\d{4}$")


def mask_name(path: Path) -> str:
    """The name of the scan that a mask is of, as far as the mask's own tells."""
    return CHANNEL.sub("", MASK_WORDS.sub("", scan_stem(path)))


def visit_name(name: str) -> str:
    """sub-X_ses-Y of a BIDS name; "" of others."""
    match = re.match(r"sub-[^_]+(?:_ses-[^_]+)?", name)
    return match[0] if match else ""


class MaskNames:
    """Masks by the names of their scans.

    Args:
        masks: their files.
    """

    def __init__(self, masks: Iterable[Path]) -> None:
        self._by_name: dict[str, list[Path]] = {}
        self._by_visit: dict[str, list[Path]] = {}
        for path in sorted(masks):
            name = mask_name(path)
            self._by_name.setdefault(name, []).append(path)
            self._by_visit.setdefault(visit_name(name), []).append(path)

    def of(self, scan: Path) -> list[Path]:
        """The masks of a scan: of its name, else in BIDS's manner those of its subject and session."""
        name = mask_name(scan)
        visit = visit_name(name)
        return self._by_name.get(name) or (self._by_visit.get(visit, []) if visit else [])
