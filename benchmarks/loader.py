"""Random 160^3 crops a second on one core: ours against nnssl's loader, without and with its default augmentation.

    python -m benchmarks.loader SCANS [--crops 24]

Both read what their own preprocessing made of the same scans, from the page cache. Ours augments on the device that
trains; the row "ours, augmented here" does as much as nnssl's default (rotation to 30 degrees on each axis, scale 0.7
to 1.4, mirroring) on the same core, trilinear where nnssl takes order 3. "cores" is how many such loaders a GPU wants
that trains 35 volumes/s.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from benchmarks import peer_nnssl
from benchmarks.common import in_turn, save, show
from mdae.data import augment
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.sampling import CropDataset, CropSampler
from mdae.data.sources import discover
from mdae.data.store import Store
from mdae.devices import keep_freed_memory
from mdae.options import AugmentOptions
from mdae.seeding import torch_generator

GPU_VOLUMES_PER_S = 35
AUGMENTATION = AugmentOptions(flip=0.5, rotate_deg=30.0, scale=0.4)


def our_loader(store: Store) -> Callable[[], object]:
    """A function that reads the next crop."""
    dataset = CropDataset(store, CropSampler(store.scans, peer_nnssl.PATCH, seed=0))
    numbers = iter(range(10**9))
    return lambda: dataset[next(numbers)]


def our_augmented_loader(store: Store) -> Callable[[], object]:
    """A function that reads the next crop with its margin and augments it on this core."""
    margin = augment.margin(AUGMENTATION, peer_nnssl.PATCH, store.contract.spacing_mm)
    dataset = CropDataset(store, CropSampler(store.scans, peer_nnssl.PATCH, seed=0), margin=margin)
    numbers = iter(range(10**9))

    def load() -> object:
        crop, sample, _ = dataset[next(numbers)]
        return augment.apply(
            augment.draw(AUGMENTATION, [torch_generator(0, "augmentation", sample)]),
            torch.from_numpy(crop)[None].float(),
            None,
            options=AUGMENTATION,
            patch=peer_nnssl.PATCH,
            spacing_mm=store.contract.spacing_mm,
        )

    return load


def repeated(function: Callable[[], object], number: int) -> Callable[[], None]:
    """`number` calls."""

    def run() -> None:
        for _ in range(number):
            function()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scans", type=Path)
    parser.add_argument("--crops", type=int, default=24, help="a round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # for both sides alike: it is the process's
    entries = discover(options.scans)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(PrepareConfig(source=options.scans, store=folder / "store"))
        preprocess = peer_nnssl.preprocessing(folder / "nnssl")
        for entry in entries:
            preprocess(entry.path)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        paths = [entry.path for entry in entries]
        loaders = {
            "ours": our_loader(Store.open(folder / "store")),
            "nnssl, no augmentation": peer_nnssl.loader(folder / "nnssl", paths, 1, augmented=False),
            "ours, augmented here": our_augmented_loader(Store.open(folder / "store")),
            "nnssl, default augmentation": peer_nnssl.loader(folder / "nnssl", paths, 1, augmented=True),
        }
        with threadpool_limits(1):
            seconds = in_turn({key: repeated(load, options.crops) for key, load in loaders.items()}, rounds=5)
    middle = {key: sorted(values)[2] for key, values in seconds.items()}
    rows = [
        {
            "loader": key,
            "crops/s": options.crops / value,
            "ours/it": value / middle["ours"],
            "cores": GPU_VOLUMES_PER_S * value / options.crops,
        }
        for key, value in middle.items()
    ]
    show(rows)
    save(f"loader-{options.scans.resolve().name}", rows)


if __name__ == "__main__":
    main()
