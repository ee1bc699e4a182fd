"""How many volumes a device holds at once: tried on a GPU, counted on a CPU, where trying too many ends the process."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from mdae.data import augment
from mdae.seeding import torch_generator
from mdae.training.launch import World
from mdae.training.run import Run, micro_batch_size
from mdae.training.step import Learner, MicroBatch

KEPT_FREE = 0.05  # of a GPU, for held-out volumes and what is fragmented
TAKEN_CPU = 0.8  # of the memory that is available
BYTES_A_PARAM = 16  # weight, gradient and AdamW's two moments in float32
MAPS = 32  # of the largest map's size that a step keeps, at most: a guess before counting
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)

logger = logging.getLogger(__name__)


def fitted_micro_batch(run: Run, world: World) -> int:
    """Volumes that each device takes at once: as asked for, or as many as fit, and the same on every process.

    Objectives that compare samples are never split: their loss would be another one.

    Raises:
        ConfigError: a batch that does not divide, or that the objective cannot learn from.
    """
    share = micro_batch_size(run.config, world.size)
    if run.config.accumulate or run.objective.mixes_samples or share == 1:
        run.check_micro_batch(share)
        return share
    run.objective.check_batch(share)
    sizes = [n for n in divisors(share) if n >= run.objective.min_batch and run.countable(n)]
    found = -world.largest([-largest_fitting(run, world, sizes)])[0]
    run.check_micro_batch(found)
    if found < share:
        logger.warning(
            "%d volumes at once do not fit in the device's memory: %d micro-batches of %d a step",
            *(share, share // found, found),
        )
    return found


def divisors(number: int) -> list[int]:
    """Those of a number, the largest first."""
    return [n for n in range(number, 0, -1) if number % n == 0]


def largest_fitting(run: Run, world: World, sizes: Iterable[int]) -> int:
    """The first of sizes, from the largest down, that fits; the last one if none does."""
    listed = list(sizes) or [1]
    if world.device.type == "cuda":
        return first_that(listed, lambda size: holds(run, world, size))
    if needs_no_count(run, world, listed[0]):
        return listed[0]
    most = countable_on_cpu(run, world)
    return first_that(listed, lambda size: size <= most)


def first_that(sizes: list[int], fits: Callable[[int], bool]) -> int:
    """The first size that fits, else the last one, which the run itself then fails with."""
    return next((size for size in sizes[:-1] if fits(size)), sizes[-1])


def holds(run: Run, world: World, size: int) -> bool:
    """Whether a GPU holds two steps of so many volumes at once; nothing of them stays."""
    device = world.device
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    free, _ = torch.cuda.mem_get_info(device)
    limit = (free + torch.cuda.memory_reserved(device)) * (1 - KEPT_FREE)
    try:
        two_steps(run, world, size)
        return torch.cuda.max_memory_reserved(device) <= limit
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()


def two_steps(run: Run, world: World, size: int) -> None:
    """Two steps of two micro-batches on a copy of the objective: the second meets gradients and moments."""
    config = run.config
    learner = Learner(
        copy.deepcopy(run.objective).to(world.device),
        run.step_settings(bf16=world.bf16),
        lr=config.lr,
        ema=config.ema,
    )
    batch = MicroBatch(made_up_crops(run, size), range(size))
    for number in (1, 2):
        learner.step([batch, batch], 0.0, number)


def made_up_crops(run: Run, size: int) -> Tensor:
    """Noise as the loader would give crops, (size, C, D, H, W) in float16."""
    margin = augment.margin(run.config.augment, run.patch, run.store.contract.spacing_mm)
    shape = [side + 2 * beyond for side, beyond in zip(run.patch, margin, strict=True)]
    channels = run.objective.network.in_channels
    return torch.randn((size, channels, *shape), generator=torch_generator(0, "made up")).half()


def needs_no_count(run: Run, world: World, size: int) -> bool:
    """Whether so many volumes fit in any case."""
    maps = MAPS * run.objective.network.largest_map(run.patch) * 4
    return size * maps < available_bytes() * TAKEN_CPU / world.place.local_size / 2


def countable_on_cpu(run: Run, world: World) -> int:
    """How many volumes the memory holds by what one keeps for its gradient; 1 at least."""
    kept = bytes_a_volume(run)
    params = sum(p.numel() for p in run.objective.parameters())
    room = available_bytes() * TAKEN_CPU / world.place.local_size - params * BYTES_A_PARAM
    return max(1, int(room // kept))


def bytes_a_volume(run: Run) -> float:
    """What one volume keeps for the backward pass, and as much again for what comes and goes in it."""
    size, seen = max(1, run.objective.min_batch), {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return value

    kept: list[Tensor] = []  # alive until all are counted, so that no two have one address

    def pack(value: Tensor) -> Tensor:
        kept.append(keep(value))
        return value

    crops = made_up_crops(run, size).float()
    crops = crops[..., : run.patch[0], : run.patch[1], : run.patch[2]]
    generators = [torch_generator(0, "made up", n) for n in range(size)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        run.objective(crops, generators, None)
    own = {p.untyped_storage().data_ptr() for p in _weights(run.objective)}
    return 2 * sum(nbytes for address, nbytes in seen.items() if address not in own) / size


def _weights(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def available_bytes() -> float:
    """Memory that this process may still take: the machine's, or what its container leaves; unknown is no limit."""
    found = [_meminfo()]
    for limit, used in CGROUPS:
        most, now = _number(Path(limit)), _number(Path(used))
        if most is not None and now is not None:
            found.append(most - now)
    return max(1.0, min(found))


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


def _meminfo() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next(
        (float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), math.inf
    )
