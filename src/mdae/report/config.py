"""The options of `mdae demo`; torch-free, for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mdae.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What pre-training saves of labels, in five minutes, on one page: of made-up brains, or of your scans and masks.

    The same command again goes on where it was stopped."""

    out: Positional[Annotated[Path, arg(metavar="OUT")]] = Path("demo")
    """Folder to work in; the page is `index.html`."""
    source: Path | None = None
    """Your own scans instead of the made-up cohort: a folder, a BIDS tree, a manifest."""
    masks: Path | None = None
    """A folder of masks of a few of these scans, named as they are; the scans of others are pre-trained on.
    Without any masks the page shows the pre-training alone."""
    subjects: Path | None = None
    """Table of columns scan and subject, where your scans' names do not tell whose they are."""
    contrasts: tuple[str, ...] = ()
    """Of your own scans: in which contrasts to segment, each by itself. Not needed where there is one."""
    made_up: int = 32
    """Made-up subjects to pre-train on; those who are labelled and tested are others."""
    steps: int = 560
    """Optimiser steps of pre-training."""
    seed: int = 0
    """Everything random follows from it."""

    def __post_init__(self) -> None:
        if self.made_up < 2:
            raise ConfigError(
                f"{self.made_up} subjects are too few to pre-train on", mend="give --made-up 2 or more"
            )
        if self.steps < 1:
            raise ConfigError("no steps", mend="give --steps 1 or more")
        if self.source is None and (self.masks or self.subjects or self.contrasts):
            raise ConfigError(
                "--masks, --subjects or --contrasts without scans", mend="name your scans with --source"
            )
