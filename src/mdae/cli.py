"""The command line. Errors are one line and exit status 2; Ctrl-C is one line and 130; a traceback is a bug.

Only option classes are imported here; each command imports what it runs, so that help is instant.
"""

from __future__ import annotations

import io
import logging
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import tyro
from rich.console import Console

from mdae.child import end_with_parent, tell_parent
from mdae.commands import Command, help_text, require_command, require_output
from mdae.data.check import CheckConfig
from mdae.data.download import DownloadConfig
from mdae.data.prepare import PrepareConfig
from mdae.data.set_aside import by_reason
from mdae.data.sources import Listing, in_words
from mdae.data.splits import SplitConfig
from mdae.data.synth import SynthConfig
from mdae.errors import DataError, MDAEError
from mdae.evaluation.configs import (
    EmbedConfig,
    EncodersConfig,
    EvaluateConfig,
    ProbeConfig,
    ReconstructConfig,
    TasksConfig,
)
from mdae.extras import missing_extra
from mdae.inference.config import FitConfig, PredictConfig
from mdae.interop.configs import CardConfig, ExportConfig, PushConfig
from mdae.notices import collected, quiet_readers
from mdae.options import ObjectivesConfig
from mdae.report.config import DemoConfig
from mdae.report.leaderboard.config import LeaderboardConfig
from mdae.seeding import require_seed
from mdae.sweep.config import SweepConfig
from mdae.text import counted
from mdae.training.config import PretrainConfig
from mdae.version import __version__

console = Console()
SHOWN = 50  # lines of a kind: more are counted


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments) in (["--version"], ["version"]):
        print(f"mdae {__version__}")
        return
    if list(arguments) in ([], ["--help"], ["-h"], ["help"]):
        console.print(help_text(), highlight=False)
        return
    end_with_parent()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to end
            stream.reconfigure(errors="backslashreplace")
    quiet_readers()
    logging.basicConfig(level=logging.WARNING, format="mdae: %(message)s")
    try:
        require_command(arguments[0])
        require_output(arguments)
        config: Any = tyro.cli(
            Command,
            args=arguments,
            prog="mdae",
            description="Masked-Diffusion Autoencoders for 3D medical scans.",
        )
        require_seed(getattr(config, "seed", 0))
        with collected():
            RUNNERS[type(config)](config)
    except MDAEError as error:
        sys.exit(_fail(error, str(error), 2))
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        sys.exit(_fail(missing, str(missing), 2))
    except KeyboardInterrupt as error:
        sys.exit(_fail(error, str(error) or "stopped; the same command goes on from there", 130))
    except BrokenPipeError:
        sys.exit(141)
    except MemoryError as error:
        sys.exit(_fail(error, f"not enough memory ({error}); use a smaller patch or batch", 2))
    except OSError as error:
        sys.exit(_fail(error, f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), 2))


def _fail(error: BaseException, line: str, status: int) -> int:
    """Say it, unless the process that started this one will."""
    if not tell_parent(error, line):
        print(f"mdae: {line}", file=sys.stderr)
    return status


def _download(config: DownloadConfig) -> None:
    from mdae.data.download import download

    done = download(config)
    subjects = counted(len({scan.subject for scan in done.scans}), "subject")
    contrasts = ", ".join(f"{number} {name}" for name, number in done.contrasts().items())
    verb = "would be taken" if config.dry_run else f"are there, {done.fetched} files of them new"
    console.print(
        f"{counted(len(done.scans), 'scan')} of {subjects} ({contrasts}) {verb}; "
        f"{counted(len(done.files), 'file')}, {done.num_bytes / 1e9:.2f} GB on disk: {config.out}",
        soft_wrap=True,
        highlight=False,
    )


def _prepare(config: PrepareConfig) -> None:
    from mdae.data.prepare import prepare

    summary = prepare(config, say=lambda line: console.print(line, soft_wrap=True, highlight=False))
    if config.dry_run:
        _print_listing(summary.listing)
    for line in summary.plan.lines() if summary.plan else ():
        console.print(line, soft_wrap=True, highlight=False)
    if config.dry_run or config.measure:
        return
    console.print(
        f"{counted(summary.prepared, 'scan')} prepared, {summary.unchanged} there already, "
        f"{len(summary.set_aside)} set aside, "
        + (f"{summary.pruned} removed, " if summary.pruned else "")
        + f"in {summary.seconds:.1f} s: {config.store}",
        soft_wrap=True,
        highlight=False,
    )
    unseen = [row for row in summary.listing.left_out if row.unseen]
    for line in by_reason([*summary.set_aside, *unseen]):
        console.print(line, soft_wrap=True, highlight=False)
    if summary.set_aside:
        console.print(f"  all of them: {config.store / 'set_aside.csv'}", soft_wrap=True, highlight=False)
    if summary.in_store == 0 and not summary.pruned:
        raise DataError(
            "no scan could be prepared", where=config.store / "set_aside.csv", mend="see the reasons"
        )


def _print_listing(listing: Listing) -> None:
    """What would be taken, and why not the rest."""
    for entry in listing.entries[:SHOWN]:
        line = f"{entry.scan_id}  subject {entry.subject}  {entry.contrast or '-'}  {entry.path}"
        console.print(line, soft_wrap=True, highlight=False)
    if len(listing.entries) > SHOWN:
        console.print(f"and {len(listing.entries) - SHOWN} more", highlight=False)
    by_reason: dict[str, list[str]] = {}
    for row in listing.left_out:
        by_reason.setdefault(row.reason, []).append(row.path)
    for reason, paths in by_reason.items():
        for path in paths[:SHOWN]:
            console.print(f"left out: {path}: {reason}", soft_wrap=True, highlight=False)
        if len(paths) > SHOWN:
            console.print(f"left out: {len(paths) - SHOWN} more: {reason}", highlight=False)
    if listing.passed_over:
        console.print(f"passed over: {in_words(listing.passed_over)}", soft_wrap=True, highlight=False)
    subjects = counted(listing.reading.num_subjects, "case" if listing.reading.cases else "subject")
    console.print(
        f"{listing.kind}: {counted(len(listing.entries), 'scan')} of {subjects} would be prepared, "
        + _left_out(listing),
        soft_wrap=True,
        highlight=False,
    )


def _left_out(listing: Listing) -> str:
    number, maps = len(listing.left_out), listing.num_label_maps
    if maps and maps == number:
        return f"{counted(maps, 'label map')} left out"
    return f"{number} left out" + (f", {counted(maps, 'label map')} among them" if maps else "")


def _check(config: CheckConfig) -> None:
    from mdae.data.check import check

    found = check(config)
    for line in found.lines():
        console.print(line, soft_wrap=True, highlight=False)
    if not found.sound:
        sys.exit(1)


def _split(config: SplitConfig) -> None:
    from mdae.data.splits import read_split, split

    path = split(config)
    counts = Counter(read_split(config.store, config.name).values())
    shown = ", ".join(f"{counts[part]} {part}" for part in ("train", "val", "test") if counts[part])
    noun = "subject" if sum(counts.values()) == 1 else "subjects"
    console.print(f"{shown} {noun}: {path}", soft_wrap=True, highlight=False)


def _objectives(config: ObjectivesConfig) -> None:
    from mdae.objectives.show import objectives_table, show_objective
    from mdae.plugin import load_plugin

    if config.plugin is not None:
        load_plugin(config.plugin)
    if config.name:
        for line in show_objective(config.name):
            console.print(line, soft_wrap=True, highlight=False)
    else:
        console.print(objectives_table())


def _pretrain(config: PretrainConfig) -> None:
    if config.dry_run:
        from mdae.training.dry_run import dry_run

        for line in dry_run(config):
            console.print(line, soft_wrap=True, highlight=False)
        return
    from mdae.training.diagnostics.standard import standard
    from mdae.training.loop import pretrain

    watch = standard
    if config.probe is not None or config.masks is not None:
        from mdae.evaluation.online.watching import watching as watch  # sklearn and MONAI: seconds to import

    console.print(f"model: {pretrain(config, watch)}", soft_wrap=True, highlight=False)


def _embed(config: EmbedConfig) -> None:
    from mdae.evaluation.features.embed import embed

    result = embed(config, say=lambda line: console.print(line, soft_wrap=True, highlight=False))
    console.print(
        f"{counted(len(result.table), 'scan')} embedded (window: {config.window}), {len(result.set_aside)} set aside: "
        f"{config.out}",
        soft_wrap=True,
        highlight=False,
    )


def _probe(config: ProbeConfig) -> None:
    from mdae.evaluation.probing.probe import probe, results_table

    console.print(results_table(probe(config)))


def _tasks(config: TasksConfig) -> None:
    from mdae.tasks.catalogue import find_task
    from mdae.tasks.show import show_task, tasks_table

    if config.name:
        for line in show_task(find_task(config.name)):
            console.print(line, soft_wrap=True, highlight=False)
    else:
        console.print(tasks_table())


def _encoders(config: EncodersConfig) -> None:
    from mdae.evaluation.features.show import encoders_table, show_encoder

    if config.name:
        for line in show_encoder(config.name):
            console.print(line, soft_wrap=True, highlight=False)
    else:
        console.print(encoders_table())


def _evaluate(config: EvaluateConfig) -> None:
    from mdae.evaluation.evaluate import evaluate
    from mdae.evaluation.results.schema import result_path, results_table

    for evaluation in evaluate(config):
        console.print(results_table(evaluation))
        console.print(f"result: {result_path(config.out, evaluation)}", soft_wrap=True, highlight=False)


def _leaderboard(config: LeaderboardConfig) -> None:
    from mdae.report.leaderboard.write import write_leaderboard

    console.print(f"open {write_leaderboard(config)}", soft_wrap=True, highlight=False)


def _sweep(config: SweepConfig) -> None:
    from mdae.sweep.work import sweep

    console.print(f"open {sweep(config)}", soft_wrap=True, highlight=False)


def _fit(config: FitConfig) -> None:
    from mdae.inference.fit import fit
    from mdae.inference.show import fitted_lines

    for line in fitted_lines(fit(config), config.out):
        console.print(line, soft_wrap=True, highlight=False)


def _predict(config: PredictConfig) -> None:
    from mdae.inference.predict import predict

    done = predict(config)
    console.print(
        f"{len(done.table)} predicted, {len(done.set_aside)} set aside: {done.out}",
        soft_wrap=True,
        highlight=False,
    )


def _reconstruct(config: ReconstructConfig) -> None:
    from mdae.inference.reconstruct import reconstruct

    for result in reconstruct(config):
        errors = result.errors().items()
        shown = ", ".join(f"{name} {value:.3f}" for name, value in errors if value is not None)
        whose = f"{result.contrast}: " if result.contrast else ""
        console.print(
            f"{config.out}: {whose}{shown or 'no clean volume to compare with'}",
            soft_wrap=True,
            highlight=False,
        )


def _export(config: ExportConfig) -> None:
    from mdae.interop.export import export

    for line in export(config):
        console.print(line, soft_wrap=True, highlight=False)


def _push(config: PushConfig) -> None:
    from mdae.interop.hub import push

    console.print(f"pushed: {push(config)}", soft_wrap=True, highlight=False)


def _card(config: CardConfig) -> None:
    from mdae.interop.hub import write_card

    console.print(f"card: {write_card(config)}", soft_wrap=True, highlight=False)


def _synth(config: SynthConfig) -> None:
    from mdae.data.synth import synthesise

    console.print(f"cohort: {synthesise(config)}", soft_wrap=True, highlight=False)


def _demo(config: DemoConfig) -> None:
    from mdae.report.demo import demo

    console.print(f"open {demo(config)}", soft_wrap=True, highlight=False)


RUNNERS: dict[type, Callable[[Any], None]] = {
    DownloadConfig: _download,
    PrepareConfig: _prepare,
    CheckConfig: _check,
    SplitConfig: _split,
    ObjectivesConfig: _objectives,
    PretrainConfig: _pretrain,
    EmbedConfig: _embed,
    ProbeConfig: _probe,
    TasksConfig: _tasks,
    EncodersConfig: _encoders,
    EvaluateConfig: _evaluate,
    LeaderboardConfig: _leaderboard,
    FitConfig: _fit,
    PredictConfig: _predict,
    SweepConfig: _sweep,
    ReconstructConfig: _reconstruct,
    ExportConfig: _export,
    PushConfig: _push,
    CardConfig: _card,
    SynthConfig: _synth,
    DemoConfig: _demo,
}
