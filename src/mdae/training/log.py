"""The run's log: CSV files that a program reads and TensorBoard events that a person looks at."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from mdae.errors import DataError
from mdae.files import atomic_write
from mdae.training.wandb_log import WandbLog

TABLES = ("train", "val", "skipped")


class RunLog:
    """Rows by step, in `train.csv`, `val.csv` and so on and, under the same names, in TensorBoard.

    Args:
        folder: the run's folder.
        step: the step to go on from; what an interrupted run logged beyond it is dropped.
        tables: those that it may be given rows of. No other file of the folder is touched.
        mirror: where rows and pictures are shown as well.

    Raises:
        DataError: a table of one of these names that no run wrote.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        tables: tuple[str, ...] = TABLES,
        mirror: WandbLog | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.tables, self.mirror = folder, tables, mirror
        for name in tables:
            _keep_rows_until(folder / f"{name}.csv", step)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def row(self, table: str, step: int, values: Mapping[str, float | str]) -> None:
        """Append one row; the columns are those of the table's first row. Text is for the table alone."""
        assert table in self.tables, table
        path = self.folder / f"{table}.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", *values])
            writer.writerow([step, *(v if isinstance(v, str) else f"{v:.9g}" for v in values.values())])
        for name, value in values.items():
            if not isinstance(value, str) and math.isfinite(value):
                self.board.add_scalar(f"{table}/{name}", value, step)
        if self.mirror is not None:
            self.mirror.row(table, step, values)

    def picture(self, name: str, step: int, image: np.ndarray) -> None:
        """Show an image, (height, width, 3) uint8, in TensorBoard."""
        self.board.add_image(name, image, step, dataformats="HWC")
        if self.mirror is not None:
            self.mirror.picture(name, step, image)

    def close(self) -> None:
        """Flush and close the event file."""
        self.board.close()
        if self.mirror is not None:
            self.mirror.close()


def _keep_rows_until(path: Path, step: int) -> None:
    """Drop the rows after `step`, and a last row that was cut short; what is kept stays as it is, byte for byte."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and lines[0].endswith(b"\n"):
        if not lines[0].startswith(b"step,"):
            raise DataError("a table that no run wrote", where=path, mend="rename it, or give another folder")
        rows = [line for line in lines[1:] if line.endswith(b"\n") and _step_of(line, path) <= step]
        if rows:
            with atomic_write(path) as temporary:
                temporary.write_bytes(b"".join([lines[0], *rows]))
            return
    path.unlink()


def _step_of(row: bytes, path: Path) -> int:
    try:
        return int(row.split(b",")[0])
    except ValueError as error:
        raise DataError(
            "a table that no run wrote", where=path, mend="rename it, or give another folder"
        ) from error
