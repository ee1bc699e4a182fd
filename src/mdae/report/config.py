"""The options of `mdae demo`; torch-free, for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mdae.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The whole method in five minutes: a cohort, pre-training, a probe, and a page that shows it all."""

    out: Positional[Annotated[Path, arg(metavar="OUT")]] = Path("demo")
    """Folder to work in; the page is `index.html`."""
    source: Path | None = None
    """A folder of your own scans instead of the made-up cohort; there is no probe then."""
    subjects: int = 140
    """Made-up subjects."""
    steps: int = 550
    """Optimiser steps of pre-training."""
    seed: int = 0
    """Everything random follows from it."""

    def __post_init__(self) -> None:
        if self.subjects < 40:
            raise ConfigError(
                f"{self.subjects} subjects are too few to probe", mend="give --subjects 40 or more"
            )
        if self.steps < 1:
            raise ConfigError("no steps", mend="give --steps 1 or more")
