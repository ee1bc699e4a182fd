"""The options of `mdae leaderboard`; torch-free, for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mdae.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LeaderboardConfig:
    """Encoders side by side: tables, figures and one page, with differences from a baseline and their intervals."""

    results: Positional[Annotated[tuple[Path, ...], arg(metavar="RESULTS")]]
    """Files that `mdae evaluate` wrote, or folders of them."""
    baseline: str
    """The encoder that all others are compared with, as the files name it."""
    out: Path = Path("leaderboard")
    """Folder for index.html, leaderboard.md, leaderboard.csv and leaderboard.tex."""
    metric: str | None = None
    """What encoders are ranked and compared by where a task has it, auroc if left out; other tasks by mae (regression)
    or dice (segmentation)."""
    seed: int = 0
    """Of the draws of subjects."""

    def __post_init__(self) -> None:
        if not self.results:
            raise ConfigError("no results", mend="name the files or folders that `mdae evaluate` wrote")
