"""Runs of several processes, as users start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

# Of MDAE. Blocks as fine as are usual for such crops leave its deepest stage, of few voxels, to magnify rounding.
ONE_STEP = (
    *("--steps", "1", "--batch", "4", "--log-every", "1", "--val-every", "0", "--picture-every", "0"),
    *("--set", "block=7,7,7"),
)
SMALL = ("--patch", "16", "16", "16", "--precision", "32", "--accelerator", "cpu", "--val-fraction", "0.2")


def environment(**more: str) -> dict[str, str]:
    """One thread each, and nothing of a cluster but what is given."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "MASTER_", "OMPI_"))}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def pretrain(store: Path, out: Path, *options: str) -> list[str]:
    return ["pretrain", str(store), str(out), *SMALL, *options]


def together(commands: list[list[str]], environments: list[dict[str, str]]) -> list[tuple[int, str]]:
    """Status and stderr of commands that run at the same time."""
    started = [
        subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for command, environ in zip(commands, environments, strict=True)
    ]
    try:
        return [(p.returncode, said) for p in started for said in [p.communicate(timeout=240)[1]]]
    finally:
        for process in started:
            process.kill()


def torchrun(nodes: int, each: int, *commands: list[str]) -> list[tuple[int, str]]:
    """One agent a machine; one command for all of them, or one each."""
    port = free_port()
    agents = [
        [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={each}"]
        + [f"--node-rank={node}", "--master-addr=127.0.0.1", f"--master-port={port}", "-m", "mdae"]
        + commands[node % len(commands)]
        for node in range(nodes)
    ]
    return together(agents, [environment()] * nodes)


def srun(tasks: int, command: list[str], nodes: int = 1) -> list[tuple[int, str]]:
    """What srun makes of a command: one process a task, each told who it is."""
    job = str(10_000 + int(free_port()))
    told = {
        "SLURM_JOB_ID": job, "SLURM_STEP_ID": "0", "SLURM_NTASKS": str(tasks), "SLURM_NNODES": str(nodes),
        "SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_NODELIST": "localhost,gpu[07-09]",
    }  # fmt: skip
    environs = [
        environment(
            **told,
            SLURM_PROCID=str(task),
            SLURM_LOCALID=str(task % (tasks // nodes)),
            SLURM_NODEID=str(task // (tasks // nodes)),
        )
        for task in range(tasks)
    ]
    return together([[sys.executable, "-m", "mdae", *command]] * tasks, environs)


def first_gradient(out: Path) -> Tensor:
    """The clipped gradient of step 1, which AdamW's first moment is a tenth of, one number a weight."""
    state = torch.load(out / "checkpoints" / "step-00000001.pt", weights_only=True)["optimiser"]["state"]
    return torch.cat([moments["exp_avg"].flatten() for moments in state.values()]) / 0.1


def assert_same_gradient(one: Path, other: Path) -> None:
    """To 1e-5 of its norm."""
    first, second = first_gradient(one), first_gradient(other)
    assert (first - second).norm() <= 1e-5 * first.norm() and first.norm() > 0
