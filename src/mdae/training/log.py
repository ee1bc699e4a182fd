"""The run's log: CSV files that a program reads and TensorBoard events that a person looks at."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from mdae.files import atomic_write


class RunLog:
    """Rows by step, in `train.csv` and `val.csv` and, under the same names, in TensorBoard.

    Args:
        folder: the run's folder.
        step: the step to go on from; what an interrupted run logged beyond it is dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        for path in folder.glob("*.csv"):
            _keep_rows_until(path, step)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def row(self, table: str, step: int, values: Mapping[str, float]) -> None:
        """Append one row; the columns are those of the table's first row."""
        path = self.folder / f"{table}.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", *values])
            writer.writerow([step, *(f"{value:.9g}" for value in values.values())])
        for name, value in values.items():
            if math.isfinite(value):
                self.board.add_scalar(f"{table}/{name}", value, step)

    def picture(self, name: str, step: int, image: np.ndarray) -> None:
        """Show an image, (height, width, 3) uint8, in TensorBoard."""
        self.board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the event file."""
        self.board.close()


def _keep_rows_until(path: Path, step: int) -> None:
    """Drop the rows after `step`, and a last row that was cut short."""
    lines = path.read_text().splitlines(keepends=True)
    rows = [line for line in lines[1:] if line.endswith("\n") and int(line.split(",")[0]) <= step]
    if lines and lines[0].endswith("\n") and rows:
        with atomic_write(path) as temporary:
            temporary.write_text("".join([lines[0], *rows]))
    else:
        path.unlink()
