"""Where and in what arithmetic a run computes, and how its processes speak with each other."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mdae import errors
from mdae.devices import keep_freed_memory, settle_threads, uses_bf16
from mdae.errors import ConfigError, MDAEError
from mdae.training.config import PretrainConfig
from mdae.training.place import Place, find_place

BROKEN_TF32 = (91002, 91500)  # versions of cuDNN, whose conv3d is wrong in TF32

Outcome = TypeVar("Outcome")
Raised = TypeVar("Raised", bound=BaseException)


@dataclass(frozen=True)
class World:
    """This process among all of a run.

    Attributes:
        place: which one it is.
        device: where it computes.
        bf16: whether the network runs in bfloat16.
    """

    place: Place
    device: torch.device
    bf16: bool = False

    @property
    def lead(self) -> bool:
        """Whether this is the process that writes."""
        return self.place.rank == 0

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.place.size

    @property
    def precision(self) -> str:
        """The arithmetic, as `--precision` names it."""
        return "bf16" if self.bf16 else "32"

    def distributed(self, module: nn.Module, *, accumulate: int = 1) -> nn.Module:
        """The module, its gradients averaged over all processes.

        Args:
            module: on its device.
            accumulate: backward passes of a step. A graph is only told to be static where there is one: torch learns
                it from a first pass that exchanges gradients.
        """
        if self.size == 1:
            return module
        return DistributedDataParallel(
            module,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            static_graph=accumulate == 1,
        )

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def largest(self, values: list[int]) -> list[int]:
        """The largest of each over all processes."""
        if self.size == 1:
            return values
        found = torch.tensor(values, device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return [int(value) for value in found.tolist()]

    def gather(self, table: Tensor) -> Tensor:
        """The tables of all processes, (processes, ...)."""
        if self.size == 1:
            return table[None]
        tables = [torch.empty_like(table) for _ in range(self.size)]
        dist.all_gather(tables, table.contiguous())
        return torch.stack(tables)

    def told(self, work: Callable[[], Outcome]) -> Outcome:
        """What the lead alone works out and tells the others; an error of its own is everybody's."""
        if self.size == 1:
            return work()
        said: list[Any] = [None, None]
        if self.lead:
            try:
                said[0] = work()
            except MDAEError as error:
                said[1] = errors.to_dict(error)
        dist.broadcast_object_list(said, src=0, device=self.device)
        if said[1] is not None:
            raise shared(errors.from_dict(said[1]))
        outcome: Outcome = said[0]
        return outcome

    def each(self, work: Callable[[], Outcome]) -> Outcome:
        """What every process works out for itself; an error of one is everybody's, so that none waits for it."""
        if self.size == 1:
            return work()
        outcome, said = None, None
        try:
            outcome = work()
        except MDAEError as error:
            said = errors.to_dict(error)
        for found in self.everywhere(said):
            if found is not None:
                raise shared(errors.from_dict(found))
        assert outcome is not None
        return outcome

    def everywhere(self, value: Any) -> list[Any]:
        """A small value of each process, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def shared(error: Raised) -> Raised:
    """Mark an error that all processes raise: one of them says it."""
    error.shared = True  # type: ignore[attr-defined]
    return error


def launch(config: PretrainConfig) -> World:
    """Device, precision and process group as configured and as the environment says.

    Raises:
        ConfigError: no such device, or a number of processes that does not fit.
    """
    place = find_place()
    kind = kind_of_device(config)
    device = torch.device(kind)
    if kind == "cuda":
        there = torch.cuda.device_count()
        device = torch.device("cuda", 0 if there == 1 and place.by == "srun" else place.local_rank)
        if device.index >= there:
            raise ConfigError(
                f"{place.local_size} processes on this machine and {there} GPU(s)",
                mend=f"start {there} a machine",
            )
        torch.cuda.set_device(device)
    if place.by and config.devices not in (0, place.local_size):
        raise ConfigError(
            f"{place.by} started {place.local_size} process(es) a machine",
            where=f"--devices {config.devices}",
            mend="leave --devices out",
        )
    _set_arithmetic(kind)
    if place.size > 1:
        _join(place, device)
    if place.rank:
        logging.getLogger("mdae").setLevel(logging.ERROR)  # the lead says it
    return World(place, device, uses_bf16(device, config.precision))


def kind_of_device(config: PretrainConfig) -> str:
    """The kind that is computed on; raises `ConfigError` if there is none of it."""
    kind = config.accelerator
    if kind == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[kind]:
        raise ConfigError(
            f"no {kind.upper()} device is available",
            where=f"--accelerator {kind}",
            mend="use --accelerator auto",
        )
    return kind


def processes_wanted(config: PretrainConfig) -> int:
    """How many processes this machine should run: one a device."""
    if kind_of_device(config) != "cuda":
        return config.devices or 1
    there = torch.cuda.device_count()
    if config.devices > there:
        raise ConfigError(f"there are {there} GPU(s)", where=f"--devices {config.devices}", mend="give fewer")
    return config.devices or there


def _set_arithmetic(kind: str) -> None:
    """Fast where it is free: TF32 for convolutions alone, where cuDNN has them right, and for no matrix product."""
    if kind != "cuda":
        keep_freed_memory()
        settle_threads()
        return
    torch.backends.cudnn.benchmark = True  # shapes never change
    torch.set_float32_matmul_precision("highest")
    version = torch.backends.cudnn.version() or 0  # type: ignore[no-untyped-call]
    torch.backends.cudnn.allow_tf32 = not BROKEN_TF32[0] <= version < BROKEN_TF32[1]


def _join(place: Place, device: torch.device) -> None:
    """Meet the other processes."""
    os.environ |= {"MASTER_ADDR": place.address, "MASTER_PORT": str(place.port)}
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            rank=place.rank,
            world_size=place.size,
            device_id=device if device.type == "cuda" else None,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"the {place.size} processes did not meet: {reason}",
            where=f"{place.address}:{place.port}",
            mend="start all of them, on machines that reach that address",
        ) from error


def leave() -> None:
    """Part from the other processes."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
