"""One training step of ours against a MAE step made as nnssl's trainer makes it, in turn in one process.

    python -m benchmarks.step                      # float32 on a CPU; `benchmarks/gpu.sh` is for a GPU
    python -m benchmarks.step --network tiny       # one network only

Ours: MDAE, the very step that `mdae pretrain` makes, one wait for the host every two steps, AdamW. The peer's: the
network of dynamic-network-architectures, masks drawn on the CPU, gradient norm clipped at 12, SGD with Nesterov
momentum (fused, as ours), the loss copied to the host at every step; fp16 autocast with a scaler on CUDA, float32
elsewhere; and the same with our optimiser, lest one moment against two decide. Written from a description of that
trainer; nothing of it is used.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import (
    in_turn,
    matmul_tflops,
    median_ratio,
    own_peak_memory_gib,
    peak_memory_gib,
    save,
    show,
)
from mdae.devices import keep_freed_memory, uses_bf16
from mdae.networks import preset
from mdae.networks.unet import UNetConfig
from mdae.objectives import build_objective
from mdae.seeding import torch_generator
from mdae.training.step import Learner, MicroBatch, StepSettings

CPU_CASES = [("tiny", 48, 4), ("small", 64, 2), ("resenc-l", 64, 1), ("primus-s", 64, 2)]
STEPS_A_ROUND = 2
ROUNDS = 7


def has_peer(network: str) -> bool:
    """Whether the library builds the network without timm, which its Primus imports."""
    return isinstance(preset(network).config, UNetConfig)


def peer_network(config: UNetConfig, num_classes: int = 1) -> ResidualEncoderUNet:
    """The same network, without time, from dynamic-network-architectures."""
    stages = len(config.features)
    return ResidualEncoderUNet(
        input_channels=1,
        n_stages=stages,
        features_per_stage=list(config.features),
        conv_op=torch.nn.Conv3d,
        kernel_sizes=3,
        strides=[1] + [2] * (stages - 1),
        n_blocks_per_stage=list(config.blocks),
        num_classes=num_classes,
        n_conv_per_stage_decoder=[1] * (stages - 1),
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


def our_steps(
    network: str, volumes: Tensor, objective: str = "mdae", *, recompute: bool = False
) -> Callable[[int], None]:
    """A function that makes so many steps of an objective, by the code that `mdae pretrain` runs."""
    device = volumes.device
    own = preset(network).new(torch_generator(0, "weights"), in_channels=volumes.shape[1])
    own.recompute(recompute)
    method = build_objective(objective, own, generator=torch_generator(0, "heads")).to(device)
    learner = Learner(method, StepSettings(bf16=uses_bf16(device)), lr=1e-3)
    counter = itertools.count()

    def steps(number: int) -> None:
        losses = []
        for _ in range(number):
            step = next(counter)
            batch = MicroBatch(volumes, range(step * len(volumes), (step + 1) * len(volumes)))
            losses.append(learner.step([batch], 1e-3, step + 1)["loss"])
        torch.stack(losses).tolist()

    return steps


def peer_optimiser(model: torch.nn.Module, name: str) -> torch.optim.Optimizer:
    """The peer's own SGD, or the AdamW that ours steps with."""
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    return torch.optim.SGD(
        model.parameters(), lr=1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5, fused=True
    )


def peer_steps(
    network: str, volumes: Tensor, dtype: torch.dtype = torch.float16, optimiser_name: str = "sgd"
) -> Callable[[int], None]:
    """A function that makes so many MAE steps the peer's way, on a GPU in autocast of `dtype`; float16 is its own."""
    device, side = volumes.device, volumes.shape[-1]
    model = peer_network(preset(network).config).to(device)
    optimiser = peer_optimiser(model, optimiser_name)
    on_gpu = device.type == "cuda"
    scaler = torch.amp.GradScaler(enabled=on_gpu and dtype == torch.float16)  # type: ignore[attr-defined]
    grid = side // 16
    hidden = int(0.75 * grid**3)

    def visible() -> Tensor:
        masks = torch.ones(len(volumes), grid**3)
        for mask in masks:
            mask[torch.randperm(grid**3)[:hidden]] = 0
        mask = masks.view(-1, 1, grid, grid, grid).to(device, non_blocking=True)
        for axis in (2, 3, 4):
            mask = mask.repeat_interleave(16, dim=axis)
        return mask

    def steps(number: int) -> None:
        for _ in range(number):
            keep = visible()
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype, enabled=on_gpu):
                output = model(volumes * keep)
                loss = ((output - volumes) ** 2 * (1 - keep)).sum() / (1 - keep).sum()
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 12.0)
            scaler.step(optimiser)
            scaler.update()
            loss.detach().cpu().numpy()

    return steps


def count_tflop(network: str, volumes: Tensor) -> float:
    """Arithmetic of one step, forward and backward, in TFLOP."""
    steps = our_steps(network, volumes)
    with FlopCounterMode(display=False) as counter:
        steps(1)
    return counter.get_total_flops() / 1e12


def measure(network: str, side: int, batch: int, device: torch.device) -> dict[str, Any]:
    """One row: seconds a step, ratio, arithmetic rate and peak memory of both."""
    volumes = torch.randn(batch, 1, side, side, side, device=device)
    number = STEPS_A_ROUND
    made = {"ours": our_steps(network, volumes)}
    if has_peer(network):
        made["peer"] = peer_steps(network, volumes)
        made["peer_adamw"] = peer_steps(network, volumes, optimiser_name="adamw")
    seconds = in_turn({name: partial(steps, number) for name, steps in made.items()}, rounds=ROUNDS)
    taken = {name: statistics.median(own) / number for name, own in seconds.items()}
    ratios = {name: median_ratio(seconds["ours"], own) for name, own in seconds.items()}
    tflop = count_tflop(network, volumes)
    limit = matmul_tflops(device, torch.float32)
    where = ["-m", "benchmarks.step", "--network", network, "--side", str(side), "--batch", str(batch)]
    return {
        "network": network,
        "side": side,
        "batch": batch,
        "ours_s": taken["ours"],
        "peer_s": taken.get("peer"),
        "peer_adamw_s": taken.get("peer_adamw"),
        "peer/ours": ratios.get("peer"),
        "peer_adamw/ours": ratios.get("peer_adamw"),
        "tflop_a_step": tflop,
        "ours_tflop/s": tflop / taken["ours"],
        "matmul_tflop/s": limit,
        "share_of_limit": tflop / taken["ours"] / limit,
        "ours_gib": peak_memory_gib([*where, "--only", "ours"]),
        "peer_gib": peak_memory_gib([*where, "--only", "peer"]) if has_peer(network) else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network")
    parser.add_argument("--side", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--channels", type=int, default=1, help="contrasts of a volume, with --only ours")
    parser.add_argument("--only", choices=["ours", "peer"], help="two steps of one side, for its memory")
    parser.add_argument("--report-memory", action="store_true")
    options = parser.parse_args()
    device = torch.device("cpu")
    keep_freed_memory()  # for both sides alike: it is the process's
    if options.only:
        side, batch = options.side, options.batch
        volumes = torch.randn(batch, options.channels, side, side, side, device=device)
        make = our_steps if options.only == "ours" else peer_steps
        make(options.network, volumes)(2)
        print(own_peak_memory_gib())
        return
    cases = [case for case in CPU_CASES if options.network in (None, case[0])]
    rows = []
    for case in cases:
        rows.append(measure(*case, device))
        show(rows[-1:])
        sys.stdout.flush()
    if options.network is None:
        save(f"step-{device.type}", rows)


if __name__ == "__main__":
    main()
