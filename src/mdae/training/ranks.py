"""The processes of a run on several devices of one machine, started by the first command as torchrun would."""

from __future__ import annotations

import socket

from mdae.child import Child, run_children
from mdae.data.workers import num_cores
from mdae.training.command import command_line
from mdae.training.config import PretrainConfig
from mdae.training.place import without_place


def run_ranks(config: PretrainConfig, number: int) -> None:
    """Run `mdae pretrain` as so many processes, each with a device, and wait for them.

    Raises:
        MDAEError: what one of them said.
        KeyboardInterrupt: after the checkpoint that a SIGINT or SIGTERM asked for.
    """
    command, environ, port = command_line(config), without_place(), _free_port()
    threads = {} if "OMP_NUM_THREADS" in environ else {"OMP_NUM_THREADS": str(max(1, num_cores() // number))}
    children = [
        Child(command, environ | threads | _variables(rank, number, port), f"process {rank} of {number}")
        for rank in range(number)
    ]
    run_children(children)


def _variables(rank: int, number: int, port: int) -> dict[str, str]:
    """What torchrun would say."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
