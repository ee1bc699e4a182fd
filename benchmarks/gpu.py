"""Every figure that needs a GPU, part by part; each part is a process of its own, so that none can take another along.

    benchmarks/gpu.sh [FOLDER]                  # all parts, within ten minutes
    python -m benchmarks.gpu step [--smoke]     # one part; --smoke tries it on anything, in moments

Rows are written as they come, to one file a day and device: `gpu-DATE-NAME.json`. Volumes are made up and lie on the
device, but for the part that asks whether the loader keeps up. Sides are measured one after the other, each alone with
the device's memory.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import DeviceType
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from benchmarks import common
from benchmarks.common import in_turn, machine, matmul_tflops, median_ratio, synchronise
from benchmarks.embed import networks
from benchmarks.step import count_tflop, our_steps, peer_steps
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import Preprocessing
from mdae.data.sampling import CropDataset, CropSampler
from mdae.data.store import Store
from mdae.data.synth import SynthConfig, synthesise
from mdae.files import atomic_write
from mdae.networks import preset
from mdae.networks.norm import using
from mdae.objectives import OBJECTIVES, build_objective
from mdae.seeding import torch_generator
from mdae.training.step import Learner, MicroBatch, StepSettings

Row = dict[str, Any]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Size(NamedTuple):
    """What is measured: a network on crops, and how long."""

    network: str = "resenc-l"
    side: int = 160
    batches: tuple[int, ...] = (2, 4, 8)
    peer_batches: tuple[int, ...] = (2, 4, 8)  # those of them that the peer's step is taken at as well
    steps: int = 4  # of a round, of which there are three
    subjects: int = 16
    spacing_mm: float = 1.0


SMOKE = Size("tiny", 32, (1, 2), (1, 2), 1, 2, 4.0)


def volumes(batch: int, side: int) -> Tensor:
    """Made-up volumes on the device; never zeros, which are faster."""
    return torch.randn(batch, 1, side, side, side, device=DEVICE)


def timed(make: Callable[[], Callable[[int], None]], batch: int, number: int) -> Row:
    """Seconds a step, the median of three rounds, and the peak of memory; what ran out of memory says so."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        started = time.perf_counter()
        steps = make()
        steps(2)
        synchronise()
        warm = time.perf_counter() - started
        rounds = [_seconds(lambda: steps(number)) / number for _ in range(3)]
    except torch.OutOfMemoryError:
        return {"batch": batch, "error": "out of memory"}
    return {
        "batch": batch,
        "step_s": statistics.median(rounds),
        "spread": (max(rounds) - min(rounds)) / statistics.median(rounds),
        "ms_a_volume": 1e3 * statistics.median(rounds) / batch,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else None,
        "warm_up_s": warm,
    }


def _seconds(function: Callable[[], object]) -> float:
    synchronise()
    started = time.perf_counter()
    function()
    synchronise()
    return time.perf_counter() - started


def step(size: Size) -> Iterator[Row]:
    """Our step and the peer's, in its own float16 and in bfloat16, and how far ours is from the arithmetic limit."""
    limit = matmul_tflops(DEVICE, torch.bfloat16 if DEVICE.type == "cuda" else torch.float32)
    small = min(size.side, 64)
    tflop = count_tflop(size.network, volumes(1, small)) * (size.side / small) ** 3
    yield {"matmul_tflop/s": limit, "tflop_a_volume": tflop, "limit_ms_a_volume": 1e3 * tflop / limit}
    for batch in size.batches:
        data = volumes(batch, size.side)
        sides: dict[str, Callable[[], Callable[[int], None]]] = {
            "ours": lambda data=data: our_steps(size.network, data)
        }
        if batch in size.peer_batches:
            sides |= {
                "peer, fp16": lambda data=data: peer_steps(size.network, data),
                "peer, bf16": lambda data=data: peer_steps(size.network, data, torch.bfloat16),
            }
        if batch == size.batches[-1]:
            sides["ours, recomputed"] = lambda data=data: our_steps(size.network, data, recompute=True)
        ours = None
        for side, make in sides.items():
            row = {"side": side, **timed(make, batch, size.steps)}
            if "step_s" in row:
                ours = row["step_s"] if side == "ours" else ours
                row["by_ours"] = row["step_s"] / ours if ours else None
                row["share_of_limit"] = tflop * batch / row["step_s"] / limit
            yield row


def where(size: Size) -> Iterator[Row]:
    """Where our step's time goes: kernels in groups, the longest kernels, and the longest operations by shape."""
    batch = size.batches[min(1, len(size.batches) - 1)]
    steps = our_steps(size.network, volumes(batch, size.side))
    steps(3)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (DEVICE.type == "cuda")
    number = 2
    with profile(activities=activities, record_shapes=True) as profiled:
        whole = _seconds(lambda: steps(number)) / number
    kernels = [
        event
        for event in profiled.key_averages()
        if event.device_type == DeviceType.CUDA or DEVICE.type == "cpu"
    ]
    groups: dict[str, float] = {}
    for event in kernels:
        name = group_of(event.key)
        groups[name] = groups.get(name, 0.0) + _own_us(event) / number / 1e3
    yield {"batch": batch, "step_ms": 1e3 * whole, "busy_ms": sum(groups.values())}
    for name, spent in sorted(groups.items(), key=lambda item: -item[1]):
        yield {"group": name, "ms": spent}
    for event in sorted(kernels, key=_own_us, reverse=True)[:30]:
        yield {"kernel": event.key[:110], "calls": event.count / number, "ms": _own_us(event) / number / 1e3}
    by_shape = [event for event in profiled.key_averages(group_by_input_shape=True) if event.input_shapes]
    for event in sorted(by_shape, key=_own_us, reverse=True)[:45]:
        shapes = str([shape for shape in event.input_shapes if shape])[:110]
        yield {
            "operation": event.key[:40],
            "shapes": shapes,
            "calls": event.count / number,
            "ms": _own_us(event) / number / 1e3,
        }


def _own_us(event: Any) -> float:
    return float(event.self_device_time_total if DEVICE.type == "cuda" else event.self_cpu_time_total)


GROUPS = {  # the first whose pattern is in a kernel's name
    "normalisation": r"^_apply|^_sum_|^_join_|batch_norm|group_norm",
    "layout": r"nchwToNhwc|nhwcToNchw|[tT]ranspose|permute",
    "convolution": r"conv|xmma|implicit|wgrad|dgrad|fprop|cutlass|nvjet|gemm|sm90|sm80|cudnn",
    "optimiser": r"[aA]dam|multi_tensor|foreach|lpnorm",
    "concatenation and copies": r"[cC]at|copy|Memcpy|Memset|fill",
    "reductions": r"reduce",
    "random numbers": r"distribution|random|philox",
    "other elementwise": r"elementwise|vectorized",
}


def group_of(kernel: str) -> str:
    """What a kernel is for, by its name."""
    return next((name for name, pattern in GROUPS.items() if re.search(pattern, kernel)), "other")


def norm(size: Size) -> Iterator[Row]:
    """Our step by each backend of the normalisation."""
    data = volumes(size.batches[0], size.side)
    for backend in ("triton", "split", "rows", "compiled") if DEVICE.type == "cuda" else ("rows", "split"):
        with using(backend):
            yield {"backend": backend, **timed(lambda: our_steps(size.network, data), len(data), size.steps)}


def embed(size: Size) -> Iterator[Row]:
    """Windows a second through the folded encoder, the peer's encoder and our whole network."""
    for batch in size.batches[:2]:
        sides = networks(size.network, size.side, batch)
        seconds = in_turn(sides, rounds=5, warmup=2)  # type: ignore[arg-type]
        yield {
            "batch": batch,
            "windows/s": batch / statistics.median(seconds["folded"]),
            "peer/ours": median_ratio(seconds["folded"], seconds["peer"]),
            "whole/ours": median_ratio(seconds["folded"], seconds["whole"]),
        }


def loader(size: Size) -> Iterator[Row]:
    """Crops a second of the loader alone, of our step alone, and of our step fed by the loader."""
    batch = size.batches[min(1, len(size.batches) - 1)]
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synth = SynthConfig(
            out=folder / "bids", subjects=size.subjects, contrasts=("T1w",), spacing_mm=size.spacing_mm
        )
        spacing = (size.spacing_mm, size.spacing_mm, size.spacing_mm)
        prepare(
            PrepareConfig(
                source=synthesise(synth),
                store=folder / "store",
                preprocessing=Preprocessing(spacing_mm=spacing),
            )
        )
        store = Store.open(folder / "store")
        patch = (size.side, size.side, size.side)
        crops = CropDataset(store, CropSampler(store.scans, patch, seed=0))
        numbers = [list(range(n, n + batch)) for n in range(0, 400 * batch, batch)]
        for workers in sorted({min(8, cores - 1), cores - 1}):
            batches = iter(
                DataLoader(
                    crops,  # type: ignore[arg-type]
                    batch_sampler=numbers,
                    num_workers=workers,
                    pin_memory=DEVICE.type == "cuda",
                )
            )
            for _ in range(4):
                next(batches)
            spent = _seconds(lambda batches=batches: [next(batches) for _ in range(10 * size.steps)])
            yield {"what": "loader", "workers": workers, "crops/s": 10 * size.steps * batch / spent}
            fed = FedSteps(size.network, batches)
            fed(3)
            spent = _seconds(lambda fed=fed: fed(5 * size.steps)) / (5 * size.steps)
            yield {"what": "step fed by it", "workers": workers, "crops/s": batch / spent}
            del fed, batches
        row = timed(lambda: our_steps(size.network, volumes(batch, size.side)), batch, size.steps)
        yield {"what": "step alone", "crops/s": batch / row["step_s"]}


class FedSteps:
    """Our steps on what a loader brings."""

    def __init__(self, network: str, batches: Iterator[Any]) -> None:
        self.batches = batches
        self.learner = _learner(network)
        self.done = 0

    def __call__(self, number: int) -> None:
        for _ in range(number):
            crops, samples, _ = next(self.batches)
            self.done += 1
            self.learner.step([MicroBatch(crops, samples.tolist())], 1e-3, self.done)


def _learner(network: str, **options: Any) -> Learner:
    unet = preset(network).new(torch_generator(0, "weights"))
    objective = build_objective("mdae", unet).to(DEVICE)
    return Learner(objective, StepSettings(bf16=DEVICE.type == "cuda"), lr=1e-3, **options)


def objectives(size: Size) -> Iterator[Row]:
    """A step of every objective, by MDAE's."""
    data = volumes(2, size.side)
    mdae = None
    for name in ["mdae", *(other for other in OBJECTIVES if other != "mdae")]:
        row = timed(lambda name=name: our_steps(size.network, data, name), len(data), max(1, size.steps // 2))
        mdae = mdae or row.get("step_s")
        yield {
            "objective": name,
            **row,
            "by_mdae": row["step_s"] / mdae if "step_s" in row and mdae else None,
        }


def two_processes(size: Size) -> Iterator[Row]:
    """Two processes on the one device, gradients exchanged by gloo through the host, for NCCL refuses that."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_one_of_two, (size, folder), nprocs=2)
        seconds = json.loads((Path(folder) / "seconds.json").read_text())
    alone = timed(lambda: our_steps(size.network, volumes(1, size.side)), 1, size.steps)
    yield {"processes": 2, "batch": 2, "step_s": seconds, "one_process_batch_1_s": alone["step_s"]}


def _one_of_two(rank: int, size: Size, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    learner = _learner(
        size.network, distributed=lambda m: DistributedDataParallel(m, gradient_as_bucket_view=True)
    )
    batch = MicroBatch(volumes(1, size.side), [rank])
    learner.step([batch], 1e-3, 1)
    seconds = _seconds(lambda: [learner.step([batch], 1e-3, n + 2) for n in range(3)]) / 3
    if rank == 0:
        (Path(folder) / "seconds.json").write_text(json.dumps(seconds))
    dist.destroy_process_group()


PARTS: dict[str, Callable[[Size], Iterator[Row]]] = {
    "step": step,
    "where": where,
    "norm": norm,
    "embed": embed,
    "loader": loader,
    "objectives": objectives,
    "two-processes": two_processes,
}


def record(part: str, rows: list[Row]) -> None:
    """Write what is known of a part so far beside what others wrote."""
    device = machine()["gpu"] or "cpu"
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    common.RESULTS.mkdir(parents=True, exist_ok=True)
    path = common.RESULTS / f"gpu-{datetime.date.today().isoformat()}-{name}.json"
    whole = json.loads(path.read_text()) if path.exists() else {"machine": _machine(), "parts": {}}
    whole["parts"][part] = rows
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(whole, indent=1) + "\n")


def _machine() -> Row:
    versions = {"cudnn": torch.backends.cudnn.version(), "cuda": torch.version.cuda}  # type: ignore[no-untyped-call]
    return {**machine(), **versions, "cores": os.cpu_count()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--peer-batches", type=int, nargs="*", help="those at which the peer is timed too")
    options = parser.parse_args()
    size = SMOKE if options.smoke else Size()
    if options.batches:
        size = size._replace(batches=tuple(options.batches))
    if options.peer_batches is not None:
        size = size._replace(peer_batches=tuple(options.peer_batches))
    torch.backends.cudnn.benchmark = True  # for both sides: shapes never change
    started = time.perf_counter()
    rows: list[Row] = []
    for row in PARTS[options.part](size):
        rows.append(row)
        record(options.part, rows)
        print(f"{options.part} {time.perf_counter() - started:5.0f} s  {_line(row)}")
        sys.stdout.flush()


def _line(row: Row) -> str:
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )


if __name__ == "__main__":
    main()
