"""Writing files whole or not at all, and reading those that people write."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mdae.errors import ConfigError, DataError, MDAEError


def _umask() -> int:
    """The process's mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


MODE = 0o666 & ~_umask()


def require_writable(folder: Path) -> None:
    """Make a folder and see that files can be written to it, before hours of work; raises `DataError`."""
    with atomic_write(folder / f".{os.getpid()}.writable") as temporary:
        temporary.touch()
    (folder / f".{os.getpid()}.writable").unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well and vanishes when it does not.

    The folder is made if need be. The temporary name keeps the suffixes, since some writers choose a format by them.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_file():
            temporary.chmod(MODE)  # safetensors writes files that nobody else may read
        temporary.replace(path)
    except MDAEError:
        raise
    except Exception as error:
        raise readable(error, path) from error
    finally:
        with suppress(OSError):  # it must not hide what went wrong
            temporary.unlink(missing_ok=True)


FULL = (
    *("no space left on device", "disk quota exceeded", "os error 28", "os error 122"),
    *("pytorchstreamwriter failed", "inline_container.cc", "file too large"),
)  # what writers say who do not raise OSError: torch and safetensors


def readable(error: Exception, path: Path) -> Exception:
    """One line for what a user can mend; other errors as they are."""
    said = str(error).lower()
    if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or (
        any(sign in said for sign in FULL)
    ):
        return DataError(
            "the disk is full, or its quota used up",
            where=path,
            mend="free some space and repeat the command",
        )
    if not isinstance(error, OSError):
        return error
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DataError("no permission to write", where=path, mend="give another folder")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return DataError(
            "a file stands where a folder is wanted", where=path.parent, mend="give another folder"
        )
    return error


def write_json(path: Path, content: Any, *, default: Callable[[Any], Any] | None = None) -> None:
    """Write JSON as `atomic_write` does; `default` is what `json.dumps` makes of other types by."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, default=default) + "\n")


def read_yaml(path: Path, kind: str) -> Any:
    """What a YAML file holds.

    Args:
        path: the file.
        kind: what it should be, for the error: "a task's".

    Raises:
        ConfigError: no such file, or no YAML.
    """
    import yaml  # here: few commands read any

    try:
        return yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"not {kind} file ({' '.join(str(error).split())})", where=path, mend="check it"
        ) from error
