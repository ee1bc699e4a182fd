"""Which process of how many this is, as torchrun, SLURM or a pod's environment says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mdae.errors import ConfigError

OF_SRUN = ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_SRUN_COMM_HOST")
DISTRIBUTED = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK"),
    *("ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"),
    *("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_USE_AGENT_STORE"),
    *("TORCHELASTIC_ERROR_FILE", "TORCH_NCCL_ASYNC_ERROR_HANDLING"),
)


@dataclass(frozen=True)
class Place:
    """One process of a run.

    Attributes:
        rank, size: which of all processes.
        local_rank, local_size: which of those on this machine.
        address, port: where process 0 listens; unused where there is one process.
        by: who started the processes, for messages: "torchrun" or "srun"; "" for nobody.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = "127.0.0.1"
    port: int = 0
    by: str = ""


def find_place(environ: Mapping[str, str] = os.environ) -> Place:
    """This process's place; the only one if nobody started several.

    Raises:
        ConfigError: several were asked for and not started as they must be.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return _of_torchrun(environ)
    if _number(environ, "OMPI_COMM_WORLD_SIZE", 1) > 1 and "SLURM_PROCID" not in environ:
        raise ConfigError("mpirun does not start runs", mend="use torchrun or srun: see docs/training.md")
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS", _number(environ, "SLURM_NTASKS", 1))
    return _of_slurm(environ, tasks) if tasks > 1 else Place()


def _of_torchrun(environ: Mapping[str, str]) -> Place:
    """torchrun's variables; a pod of Kubernetes has only some of them, and one process."""
    size = _number(environ, "WORLD_SIZE", 1)
    if size > 1 and "MASTER_ADDR" not in environ:
        raise ConfigError(
            f"WORLD_SIZE is {size} and MASTER_ADDR is not set",
            mend="start it with torchrun, or unset WORLD_SIZE",
        )
    return Place(
        rank=_number(environ, "RANK", 0),
        size=size,
        local_rank=_number(environ, "LOCAL_RANK", 0),
        local_size=_number(environ, "LOCAL_WORLD_SIZE", 1),
        address=environ.get("MASTER_ADDR", "127.0.0.1"),
        port=_number(environ, "MASTER_PORT", 29500),
        by="torchrun",
    )


def _of_slurm(environ: Mapping[str, str], tasks: int) -> Place:
    """srun's variables. sbatch sets some of them as well, for one process that is no task."""
    rank = _number(environ, "SLURM_PROCID", 0)
    if rank == 0 and not any(name in environ for name in OF_SRUN):
        raise ConfigError(
            f"SLURM reserved {tasks} tasks and started one process",
            mend="write srun before mdae, or reserve --ntasks 1 with all GPUs of a machine",
        )
    nodes = _number(environ, "SLURM_STEP_NUM_NODES", _number(environ, "SLURM_NNODES", 1))
    if tasks % nodes:
        raise ConfigError(
            f"{tasks} tasks do not divide over {nodes} machines", mend="reserve --ntasks-per-node instead"
        )
    step = _number(environ, "SLURM_JOB_ID", 0) * 31 + _number(environ, "SLURM_STEP_ID", 0)
    names = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    return Place(
        rank=rank,
        size=tasks,
        local_rank=_number(environ, "SLURM_LOCALID", 0),
        local_size=tasks // nodes,
        address=environ.get("MASTER_ADDR") or first_host(names or environ.get("SLURM_NODELIST", "127.0.0.1")),
        port=_number(environ, "MASTER_PORT", 15000 + step % 15000),
        by="srun",
    )


def first_host(names: str) -> str:
    """The first of SLURM's list of machines: gpu07 of `gpu[07-09,12],big1`."""
    found = re.match(r"([^,\[\s]*)(?:\[([^\],-]*)[^\]]*\])?([^,\[\s]*)", names.strip())
    return "".join(part or "" for part in found.groups()) if found else names


def _number(environ: Mapping[str, str], name: str, otherwise: int) -> int:
    try:
        return int(environ.get(name, otherwise))
    except ValueError as error:
        raise ConfigError(
            f"{name} is {environ[name]!r}, no number", mend="start it with torchrun or srun"
        ) from error


def without_place(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without what makes a process one of several: for one that is on its own."""
    several = (*DISTRIBUTED, "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_PROCID", *OF_SRUN)
    return {name: value for name, value in environ.items() if name not in several}
