"""Programs of others that are called: found, run, and reported in one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mdae.errors import DataError


def find_program(name: str, *, purpose: str, mend: str) -> str:
    """The path of a program, on PATH or beside this interpreter.

    Raises:
        DataError: it is not installed; `purpose` says what it is wanted for.
    """
    beside = str(Path(sys.executable).parent)
    path = shutil.which(name) or shutil.which(name, path=beside)
    if path is None:
        raise DataError(f"{name} is not installed, and {purpose}", mend=mend)
    return path


def run_program(command: Sequence[str | Path]) -> tuple[int, str]:
    """Run a program to its end; its exit status, and all that it said."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout + done.stderr


def last_complaint(said: str) -> str:
    """The line of a program's output that most likely says what went wrong."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line]
    return (errors or lines or ["it said nothing"])[-1]
