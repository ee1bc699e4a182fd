"""The options of `mdae sweep`; torch-free, for the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from mdae.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Pre-train and judge every run of a specification; the same command again goes on where it stopped."""

    spec: Positional[Annotated[Path, arg(metavar="SPEC")]]
    """YAML file: what all runs share, what they differ in, and the tasks that judge them."""
    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """Folder of the runs and of the table; on a file system that all workers see."""
    runs: Path | None = None
    """Folder of the runs alone, OUT/runs if left out; sweeps that share it make no run twice."""
    workers: int = 0
    """Runs at a time here, or jobs of a cluster; 0 for one a GPU, or one job. A job runs as many at a time as it has
    GPUs. Another `mdae sweep` on the same OUT helps as well."""
    cluster: Literal["", "slurm", "local"] = ""
    """Submit the workers as SLURM jobs through submitit (`local`: as jobs on this machine); else processes here."""
    cluster_options: dict[str, str] = field(default_factory=dict)
    """submitit's parameters, timeout_min 600 slurm_partition gpu gpus_per_node 1 say."""
    retry: bool = False
    """Try runs again that failed before."""
    table: bool = False
    """Only make the table of what there is."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ConfigError(f"{self.workers} workers", mend="give 0 or more")
        if self.cluster_options and not self.cluster:
            raise ConfigError("options of no cluster", mend="give --cluster slurm")

    @property
    def folder(self) -> Path:
        """Of the runs."""
        return self.runs or self.out / "runs"
