"""The log in Weights & Biases as well, where it is installed and asked for."""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mdae.extras import require


def require_wandb(project: str) -> None:
    """Raise `ConfigError` if it is asked for and not installed."""
    if project:
        require("wandb", "shows a run", where=f"--wandb {project}")


class WandbLog:
    """A run in a project; started again it goes on under the same name.

    Steps are a metric of their own, so that a resumed run may write a step once more.

    Args:
        project: the project's name.
        folder: the run's folder, after which it is named.
        config: what is told of it, JSON-able.
    """

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any]) -> None:
        wandb = importlib.import_module("wandb")
        about = f"{folder.absolute()}\0{sorted(config.items(), key=str)}"
        self.wandb = wandb
        self.run = wandb.init(
            project=project,
            dir=str(folder),
            name=folder.name,
            id=hashlib.sha256(about.encode()).hexdigest()[:16],
            resume="allow",
            config=dict(config),
        )
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def row(self, table: str, step: int, values: Mapping[str, float | str]) -> None:
        """Numbers of a table's row."""
        numbers = {
            f"{table}/{k}": v for k, v in values.items() if not isinstance(v, str) and math.isfinite(v)
        }
        self.run.log({"step": step, **numbers})

    def picture(self, name: str, step: int, image: np.ndarray) -> None:
        """An image, (height, width, 3) uint8."""
        self.run.log({"step": step, name: self.wandb.Image(image)})

    def close(self) -> None:
        """Send what is left."""
        self.run.finish()
