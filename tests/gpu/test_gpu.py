"""What only a GPU can show: objectives in bfloat16 that never wait, Triton's kernels, a resume, two processes.

python -m pytest tests/gpu -m gpu
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mdae.errors import ConfigError
from mdae.networks.norm import CHANNELS_LAST, Modulation, chosen, lay_channels_last, norm_act, using
from mdae.networks.unet import ResidualUNet, UNetConfig
from mdae.objectives import OBJECTIVES, build_objective
from mdae.seeding import torch_generator
from mdae.training.loop import pretrain
from mdae.training.step import Learner, MicroBatch, StepSettings
from tests.conftest import short_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

NETWORK = UNetConfig(features=(16, 32, 48), blocks=(1, 2, 1), time_dim=32)


def random(*shape: int, purpose: str = "volume") -> Tensor:
    return torch.randn(shape, generator=torch_generator(0, purpose)).cuda()


def learner(name: str = "mdae", **options: object) -> Learner:
    objective = build_objective(name, ResidualUNet(NETWORK), generator=torch_generator(0, "heads")).cuda()
    return Learner(objective, StepSettings(bf16=True), lr=1e-3, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("partly", [False, True], ids=["all known", "partly unknown"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_learns_in_bfloat16_and_never_waits(name, partly):
    trained = learner(name)
    trained.settings = StepSettings(bf16=True, partly_unknown=partly)
    volumes = nn.functional.interpolate(
        random(2, 1, 5, 5, 5), 32, mode="trilinear"
    )  # noise cannot be learned
    if partly:
        volumes[:, :, :8] = torch.nan
    losses = []
    for step in range(8):
        batch = MicroBatch(volumes, [0, 1])  # the same draws, so that the loss must fall
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode(
            "error" if step > 1 else "default"
        )  # constants are made, kernels are compiled
        try:
            losses.append(trained.step([batch], 1e-3, step + 1)["loss"])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    values = torch.stack(losses).tolist()
    assert all(value == value for value in values) and min(values[-2:]) < values[0]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(
    "shape", [(2, 32, 40, 40, 40), (3, 320, 5, 5, 5), (1, 64, 33, 17, 9), (2, 8, 64, 64, 64)]
)
@pytest.mark.parametrize(
    "film, residual, act", [(False, False, False), (True, False, True), (False, True, True)]
)
@pytest.mark.parametrize("backend", ["triton", "split"])
def test_the_backends_agree_with_float64_on_the_device(backend, film, residual, act, shape, dtype, tolerance):
    x, gradient = (3 * random(*shape) + 5).to(dtype), random(*shape, purpose="gradient").to(dtype)
    b, c = shape[:2]
    given = [x, random(c, purpose="weight"), random(c, purpose="bias")]
    given += [random(b, c, purpose="gamma") / 2, random(b, c, purpose="beta")] if film else [None, None]
    given += [random(*shape, purpose="residual").to(dtype) if residual else None]

    def results(name: str, values: list) -> list[Tensor]:
        values = [None if v is None else v.detach().clone().requires_grad_() for v in values]
        x, weight, bias, gamma, beta, added = values
        with using(name):
            out = norm_act(x, weight, bias, None if gamma is None else Modulation(gamma, beta), added, act)
        out.backward(gradient.to(out.dtype))
        return [out, *(value.grad for value in values if value is not None)]

    exact = [None if v is None else v.double() for v in given]
    gradient[results("rows", exact)[0].abs() < 1e-5] = (
        0  # at 0 the activation's side is a matter of round-off
    )
    wanted = results("rows", exact)
    for found, true in zip(results(backend, given), wanted, strict=True):
        assert (found.double() - true).norm() <= tolerance * true.norm() + 1e-6


def test_triton_is_chosen_and_the_whole_network_is_channels_last():
    assert chosen("cuda") == "triton"
    network = ResidualUNet(NETWORK).cuda()
    lay_channels_last(network)
    layouts = []
    for module in network.modules():
        if type(module).__name__ in ("ConvNorm", "ResidualBlock", "Stack", "ConvTranspose3d"):
            module.register_forward_hook(
                lambda module, given, out: layouts.append(out.is_contiguous(memory_format=CHANNELS_LAST))
            )
    with torch.autocast("cuda", torch.bfloat16):
        network(random(2, 1, 32, 32, 32), torch.tensor([0.1, 0.9], device="cuda")).sum().backward()
    assert len(layouts) > 15 and all(layouts)
    weights = [p for p in network.parameters() if p.dim() == 5 and p.grad is not None]
    assert weights and all(p.grad.is_contiguous(memory_format=CHANNELS_LAST) for p in weights)


def test_the_network_of_a_gpu_is_that_of_a_cpu():
    network = ResidualUNet(NETWORK)
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=torch_generator(0, "w", index)))
    x, t = random(2, 1, 32, 32, 32), torch.tensor([0.1, 0.9], device="cuda")
    there = copy.deepcopy(network).cuda()
    torch.backends.cudnn.allow_tf32, before = False, torch.backends.cudnn.allow_tf32
    try:
        found, wanted = there(x, t), network(x.cpu(), t.cpu())
        found.square().mean().backward()
        wanted.square().mean().backward()
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert (found.cpu() - wanted).norm() < 1e-4 * wanted.norm()
    for (name, mine), theirs in zip(network.named_parameters(), there.parameters(), strict=True):
        if mine.grad is not None:
            # One voxel on the other side of an activation moves the stem's gradient by 7e-3, on a CPU too.
            assert (theirs.grad.cpu() - mine.grad).norm() <= 3e-2 * mine.grad.norm() + 1e-7, name


def test_more_elements_than_convolutions_count_are_refused():
    network = ResidualUNet(UNetConfig(features=(64, 64), blocks=(1, 1), time_dim=8)).cuda()
    volumes = torch.zeros(1, 1, 8, 8, 8, device="cuda").expand(2**17, -1, -1, -1, -1)
    with pytest.raises(ConfigError, match="at once"):
        network(volumes, None)


def test_recomputed_activations_take_less_memory_for_the_same_gradient():
    peaks, gradients = [], []
    for wanted in (False, True):
        network = ResidualUNet(NETWORK).cuda()
        network.recompute(wanted)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", torch.bfloat16):
            loss = network(random(2, 1, 96, 96, 96), torch.tensor([0.2, 0.7], device="cuda")).square().mean()
        loss.backward()
        peaks.append(torch.cuda.max_memory_allocated())
        gradients.append(network.encoder.stem.convs[0].conv.weight.grad)
    assert peaks[1] < 0.8 * peaks[0]
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=2e-2)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(store, tmp_path):
    options = {
        "accelerator": "cuda",
        "precision": "bf16",
        "patch": (32, 32, 32),
        "val_every": 0,
        "workers": 0,
    }
    whole = pretrain(short_run(store, tmp_path / "whole", steps=8, **options))
    run = tmp_path / "cut"
    pretrain(short_run(store, run, steps=8, **options))
    last = sorted((run / "checkpoints").glob("step-*.pt"))[-1]
    last.unlink()  # as if it had been killed before the end: it goes on from the one before
    cut = pretrain(short_run(store, run, steps=8, **options))
    one, other = load_file(whole / "model.safetensors"), load_file(cut / "model.safetensors")
    for name, value in one.items():
        assert (value - other[name]).norm() <= 2e-2 * value.norm() + 1e-3, name


def _one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    trained = learner(distributed=_distributed)
    told = trained.step([MicroBatch(random(2, 1, 32, 32, 32)[rank : rank + 1], [rank])], 1e-3, 1)
    if rank == 0:
        weights = [p.detach().cpu() for p in trained.trainable]
        torch.save({"weights": weights, "norm": told["grad_norm"].cpu()}, Path(folder) / "rank0.pt")
    dist.destroy_process_group()


def _distributed(module: nn.Module) -> nn.Module:
    return DistributedDataParallel(module, gradient_as_bucket_view=True, static_graph=True)


def test_two_processes_on_one_device_make_the_step_of_one(tmp_path):
    torch.multiprocessing.spawn(_one_of_two, (str(tmp_path),), nprocs=2)
    alone = learner()
    norm = alone.step([MicroBatch(random(2, 1, 32, 32, 32), [0, 1])], 1e-3, 1)["grad_norm"]
    together = torch.load(tmp_path / "rank0.pt", weights_only=True)
    torch.testing.assert_close(together["norm"], norm.cpu(), atol=0, rtol=2e-2)
    start = learner().trainable
    moved = torch.cat([(a.detach() - s).flatten() for a, s in zip(alone.trainable, start, strict=True)]).cpu()
    with_two = torch.cat(
        [(w - s.detach().cpu()).flatten() for w, s in zip(together["weights"], start, strict=True)]
    )
    assert (moved * with_two).sum() > 0.8 * moved.norm() * with_two.norm()  # AdamW's first step is the sign
