"""A step asks the device nothing: each operation that a GPU's queue is emptied for is found on the CPU, by its name."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mdae.data import augment
from mdae.networks.unet import ResidualUNet, UNetConfig
from mdae.objectives import OBJECTIVES, build_objective
from mdae.objectives.distortions import _room, draw_shuffle
from mdae.options import AugmentOptions
from mdae.seeding import torch_generator

WAITS = (  # a number on the host, a size that the values decide, a copy of what the host made
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive"),
    *("repeat_interleave.Tensor", "lift_fresh", "bincount", "histc"),
)
SMALL = UNetConfig(features=(4, 6, 8), blocks=(1, 1, 1), time_dim=8)


class Waits(TorchDispatchMode):
    """Collects the operations that would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = str(func).removeprefix("aten.")
        by_mask = name.startswith("index") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool
            for part in args[1:2]
            for i in (part if isinstance(part, list | tuple) else [part])
        )
        by_copy = name.startswith(("index_put", "index_fill.int_Tensor")) and any(
            isinstance(a, torch.Tensor) and a.dim() == 0 for a in args[2:]
        )
        if name.startswith(WAITS) or by_mask or by_copy:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def step(objective, clean, known, first: int) -> None:  # type: ignore[no-untyped-def]
    generators = [torch_generator(0, "corruption", first + n) for n in range(len(clean))]
    objective(clean, generators, known).loss.backward()


@pytest.mark.parametrize("partly", [False, True], ids=["all known", "partly unknown"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_objective_waits_for_the_device(name, partly, monkeypatch):
    # A CPU may be asked whether a sample is shuffled at all; a GPU always shuffles.
    monkeypatch.setattr(
        "mdae.objectives.distortions._draw_source",
        lambda shuffled, number, shape, generator: draw_shuffle(number, shape, generator),
    )
    objective = build_objective(name, ResidualUNet(SMALL), generator=torch_generator(0, "heads"))
    clean = torch.randn(2, 1, 24, 24, 24, generator=torch_generator(0, "volumes"))
    known = torch.rand(clean.shape, generator=torch_generator(0, "known")) < 0.9 if partly else None
    step(objective, clean, known, 0)  # constants are made
    with Waits() as waits:
        step(objective, clean, known, 2)
    assert not waits.found


def test_augmentation_does_not_wait_for_the_device():
    options = AugmentOptions(flip=0.5, rotate_deg=20.0, scale=0.2, gain=0.2, shift=0.2, gamma=0.2)
    clean = torch.randn(2, 1, 24, 24, 24, generator=torch_generator(0, "volumes"))

    def augmented() -> None:
        drawn = augment.draw(options, [torch_generator(0, "augmentation", n) for n in range(2)])
        augment.apply(
            drawn, clean, clean > -1, options=options, patch=(16, 16, 16), spacing_mm=(1.0, 1.0, 2.0)
        )

    augmented()
    with Waits() as waits:
        augmented()
    assert not waits.found


def test_what_waits_is_found():
    x = torch.arange(4.0)
    for waiting in (
        lambda: x.sum().item(),
        lambda: x[x > 1],
        lambda: torch.tensor([1.0, 2.0]),
        lambda: torch.repeat_interleave(x, torch.arange(4)),
        lambda: x.clone().__setitem__(torch.arange(2), 1.0),
    ):
        with Waits() as waits:
            waiting()
        assert waits.found


@pytest.mark.parametrize(
    "number, largest", [(1, (1, 1, 1)), (20, (4, 4, 4)), (500, (5, 3, 2)), (3000, (2, 2, 2))]
)
def test_the_list_of_shuffled_voxels_holds_them_all(number, largest):
    shape = (10 * largest[0], 10 * largest[1], 10 * largest[2])
    for seed in range(10):
        source = draw_shuffle(number, shape, torch_generator(seed, "shuffle"))
        assert (
            source.shape == (shape[0] * shape[1] * shape[2],)
            and source.min() >= 0
            and source.max() < len(source)
        )
    sides = (
        torch.randint(1, 10**9, (200, number, 3), generator=torch_generator(0, "sides"))
        % torch.tensor(largest)
        + 1
    )
    assert sides.prod(-1).sum(-1).max() <= _room(number, largest)
