"""Names of contrasts that mean the same: data sets call theirs as they like."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Without case and what is neither letter nor digit; BraTS, UPENN-GBM, UCSF-PDGM and BIDS among others.
ALIKE = (
    ("t1", "t1w", "t1n", "t1weighted", "mprage"),
    ("t1c", "t1ce", "t1gd", "t1wce", "t1wgd", "cegdt1w", "t1post"),
    ("t2", "t2w", "t2weighted"),
    ("flair", "t2f", "t2flair", "t2wflair"),
)
MEANT = {name: names[0] for names in ALIKE for name in names}


def meant(name: str) -> str:
    """The same word for names of one contrast; the name itself, bare, where none is known."""
    bare = re.sub(r"[^a-z0-9]", "", name.casefold())
    return MEANT.get(bare, bare)


def by_channel(names: Iterable[str], channels: Sequence[str]) -> dict[str, str]:
    """Which of the names is each channel's: the very name, else the only one that means the same.

    Returns:
        Names by channel, of those channels that have one.
    """
    listed = list(names)
    found = {name: name for name in channels if name in listed}
    for channel in channels:
        alike = [name for name in listed if meant(name) == meant(channel) and name not in found.values()]
        if channel not in found and len(alike) == 1:
            found[channel] = alike[0]
    return found
