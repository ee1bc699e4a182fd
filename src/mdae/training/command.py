"""A configuration as the command that asks for it, for a run that is a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from mdae.training.config import PretrainConfig


def command_line(config: PretrainConfig) -> list[str]:
    """The `mdae pretrain` command of a configuration; what is as by default is left out."""
    start = [sys.executable, "-m", "mdae", "pretrain", str(config.store), str(config.out)]
    return [*start, *_options(config)]


def _options(config: Any) -> Iterator[str]:
    """The options of a dataclass, those of the ones within it without a prefix."""
    for item in fields(config):
        value = getattr(config, item.name)
        if item.name in ("store", "out"):
            continue
        if is_dataclass(value):
            yield from _options(value)
        elif value != (standard := _default(item)):
            flag = "--" + ("set" if item.name == "settings" else item.name.replace("_", "-"))
            flag = flag.replace("--", "--no-", 1) if standard is True else flag
            yield from [flag] if isinstance(standard, bool) else [flag, *_words(value)]


def _default(item: Field[Any]) -> Any:
    if item.default_factory is not MISSING:
        return item.default_factory()
    return item.default


def _words(value: Any) -> list[str]:
    """A value as an option takes it."""
    if isinstance(value, Mapping):
        return [str(word) for pair in value.items() for word in pair]
    return [str(word) for word in value] if isinstance(value, tuple) else [str(value)]
