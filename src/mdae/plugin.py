"""Python files of a user's own, such as objectives, networks and encoders: run once, errors told with their line."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from mdae.errors import ConfigError, MDAEError


def load_plugin(path: Path) -> None:
    """Run a Python file of the user's, which registers objectives or networks; a second time it is left alone.

    Raises:
        ConfigError: no such file, or an error in it, with the line it came from.
    """
    run_file(path, "registers an objective or a network")


def run_file(path: Path, what: str) -> ModuleType:
    """Run a Python file; a second time it is left alone.

    Args:
        path: the file.
        what: it should do, for errors: "registers an objective".

    Raises:
        ConfigError: no such file, or an error in it, with the line it came from.
    """
    path = path.resolve()
    name = f"mdae_plugin_{path.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ConfigError("no such Python file", where=path, mend=f"give a file that {what}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except MDAEError:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(
            f"{type(error).__name__}: {error}", where=place_of(error, path), mend="mend it"
        ) from error
    return module


def place_of(error: BaseException, path: Path) -> str:
    """The file, and the last of its lines that an error came through."""
    lines = [error.lineno] if isinstance(error, SyntaxError) else []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f"{path}:{lines[-1]}" if lines else str(path)
