"""The crops of a run, read by processes beside the one that computes."""

from __future__ import annotations

import signal
from collections.abc import Generator
from typing import Any

from torch.utils.data import DataLoader

from mdae.data import augment
from mdae.data.sampling import CropDataset, rank_batches
from mdae.data.workers import num_cores
from mdae.training.launch import World
from mdae.training.run import Run
from mdae.training.step import MicroBatch

PATIENCE_S = 120  # that a worker outlives a SIGTERM, if the process that computes does not end it before
MOST_WORKERS = 8  # of one device: read, decompressed and cropped, a volume costs milliseconds


def num_workers(wanted: int, local_size: int, *, on_cpu: bool) -> int:
    """Loader processes of one device: its share of the machine's cores, one of them left for itself; none on a CPU."""
    if wanted >= 0:
        return wanted
    return 0 if on_cpu else max(1, min(MOST_WORKERS, num_cores() // local_size - 1))


def micro_batches(
    run: Run, world: World, *, first_step: int, micro_batch: int
) -> Generator[MicroBatch, None, None]:
    """This process's micro-batches, in float16, from the step after `first_step` to the last."""
    config = run.config
    samples = rank_batches(
        first_step,
        config.total_steps,
        batch=config.batch,
        micro_batch=micro_batch,
        rank=world.place.rank,
        world=world.size,
    )
    crops = CropDataset(
        run.store,
        run.train,
        margin=augment.margin(config.augment, run.patch, run.store.contract.spacing_mm),
        min_foreground=config.min_foreground,
    )
    on_cpu = world.device.type == "cpu"
    loader: DataLoader[Any] = DataLoader(
        crops,  # type: ignore[arg-type]  # a map is all it needs
        batch_sampler=samples,  # type: ignore[arg-type]  # any iterable of lists
        num_workers=num_workers(config.workers, world.place.local_size, on_cpu=on_cpu),
        pin_memory=not on_cpu,
        worker_init_fn=_patient,
    )
    with _signals_held():  # a worker must not be hit before it is patient
        batches = iter(loader)
    try:
        for volumes, numbers, _ in batches:
            yield MicroBatch(volumes, numbers.tolist())
    finally:
        if loader.num_workers:  # by name: whoever keeps an error keeps the iterator, and with it the workers
            batches._shutdown_workers()  # type: ignore[attr-defined]


class _signals_held:  # noqa: N801  # a block, read as a phrase
    """Within the block SIGINT and SIGTERM wait; in processes that start in it, until they say otherwise."""

    def __enter__(self) -> None:
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before)


def _patient(worker: int) -> None:
    """A signal to the whole group of processes is for the one that computes: it says when its readers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(PATIENCE_S))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
