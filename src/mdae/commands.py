"""The commands, in the groups that help shows them in; torch-free, so that help is instant.

Outputs go by one rule. What a command makes, which others then take, is its last word: `prepare SOURCE STORE`,
`pretrain STORE OUT`, `fit ENCODER LABELS OUT`. What takes any number of inputs, or tells how good something is, writes
to `--out`, which has a default: `embed`, `predict`, `probe`, `evaluate`, `leaderboard`, `card`.
"""

from __future__ import annotations

import difflib
import functools
import operator
from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_type_hints

import tyro
from rich.console import Group
from rich.table import Table
from tyro.conf import Positional

from mdae.data.check import CheckConfig
from mdae.data.download import DownloadConfig
from mdae.data.prepare import PrepareConfig
from mdae.data.splits import SplitConfig
from mdae.data.synth import SynthConfig
from mdae.errors import ConfigError
from mdae.evaluation.configs import (
    EmbedConfig,
    EncodersConfig,
    EvaluateConfig,
    ProbeConfig,
    ReconstructConfig,
    TasksConfig,
)
from mdae.inference.config import FitConfig, PredictConfig
from mdae.interop.configs import CardConfig, ExportConfig, PushConfig
from mdae.options import ObjectivesConfig
from mdae.report.config import DemoConfig
from mdae.report.leaderboard.config import LeaderboardConfig
from mdae.sweep.config import SweepConfig
from mdae.training.config import PretrainConfig

GROUPS: dict[str, dict[str, type]] = {
    "data": {
        "download": DownloadConfig,
        "prepare": PrepareConfig,
        "check": CheckConfig,
        "split": SplitConfig,
        "synth": SynthConfig,
    },
    "train": {
        "pretrain": PretrainConfig,
        "objectives": ObjectivesConfig,
        "sweep": SweepConfig,
        "demo": DemoConfig,
    },
    "use": {
        "embed": EmbedConfig,
        "fit": FitConfig,
        "predict": PredictConfig,
        "reconstruct": ReconstructConfig,
    },
    "evaluate": {
        "probe": ProbeConfig,
        "tasks": TasksConfig,
        "encoders": EncodersConfig,
        "evaluate": EvaluateConfig,
        "leaderboard": LeaderboardConfig,
    },
    "share": {"export": ExportConfig, "card": CardConfig, "push": PushConfig},
}
COMMANDS = {name: config for group in GROUPS.values() for name, config in group.items()}
SHORT = (PrepareConfig, PretrainConfig)  # whose groups of options have no prefix


def _command(name: str, config: type) -> Any:
    marks = (tyro.conf.OmitArgPrefixes,) if config in SHORT else ()
    return Annotated[(config, *marks, tyro.conf.subcommand(name, prefix_name=False))]  # type: ignore[valid-type]


Command: Any = functools.reduce(operator.or_, (_command(name, config) for name, config in COMMANDS.items()))


def require_command(word: str) -> None:
    """Raises `ConfigError` for a first word that is no command; options are left to the parser."""
    if word in COMMANDS or word.startswith("-"):
        return
    near = difflib.get_close_matches(word, COMMANDS, 1)
    mend = f"did you mean mdae {near[0]}?" if near else "see mdae --help"
    raise ConfigError(f"no command {word!r}", mend=mend)


def words_of(config: type) -> dict[str, str]:
    """The positional fields of a command in order, each with what help calls it."""
    (marker,) = get_args(Positional[int])[1:]
    words = {}
    for name, kind in get_type_hints(config, include_extras=True).items():
        notes = getattr(kind, "__metadata__", ())
        if marker in notes:
            words[name] = next(note.metavar for note in notes if hasattr(note, "metavar"))
    return words


def require_output(arguments: Sequence[str]) -> None:
    """Raise `ConfigError` for --out to a command whose output is a word of its own."""
    words = words_of(COMMANDS[arguments[0]]) if arguments[0] in COMMANDS else {}
    if "out" in words and any(word.partition("=")[0] == "--out" for word in arguments):
        usage = f"mdae {arguments[0]} {' '.join(words.values())}"
        raise ConfigError(f"{arguments[0]} has no --out", mend=f"OUT is a word of its own: {usage}")


def help_text() -> Group:
    """Every command with what it does, by group."""
    table = Table.grid(padding=(0, 2))
    for group, commands in GROUPS.items():
        table.add_row(f"[bold]{group}[/bold]", "")
        for name, config in commands.items():
            table.add_row(f"  {name}", _summary(config))
    return Group(
        "mdae COMMAND ...: Masked-Diffusion Autoencoders for 3D medical scans",
        "",
        table,
        "",
        "mdae COMMAND --help tells a command's options; mdae --version the version",
    )


def _summary(config: type) -> str:
    """The first sentence of what a command says of itself."""
    first = " ".join((config.__doc__ or "").split("\n\n")[0].split())
    return first.split(". ")[0].rstrip(".")
