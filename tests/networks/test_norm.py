"""Every backend of `norm_act` against PyTorch's own instance normalisation, forward and backward."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mdae.errors import ConfigError
from mdae.networks.norm import CHANNELS_LAST, NEGATIVE_SLOPE, NORM_EPS, Modulation, norm_act, using
from mdae.networks.unet import ResidualUNet, UNetConfig, check_index
from mdae.seeding import torch_generator

SHAPES = [
    (2, 5, 6, 4, 10),
    (1, 72, 3, 3, 3),
    (3, 16, 8, 10, 8),
]  # channels beside and beyond a tile's, uneven voxels


@pytest.fixture(params=["rows", "split", "triton", pytest.param("compiled", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """One backend after the other; Triton's kernels through its interpreter."""
    if request.param == "triton":
        need_triton()
    if request.param == "compiled" and not shutil.which("c++"):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    with using(request.param):
        yield request.param


def need_triton() -> None:
    if not importlib.util.find_spec("triton"):
        pytest.skip("triton is not installed; on a GPU tests/gpu compares its kernels")


def random(*shape: int, purpose: str = "volume") -> Tensor:
    return torch.randn(shape, generator=torch_generator(0, purpose))


def reference(
    x: Tensor, weight: Tensor, bias: Tensor, film: Modulation | None, residual: Tensor | None, act: bool
) -> Tensor:
    """In float64, from the definition."""
    mean = x.mean((2, 3, 4), keepdim=True)
    variance = (x - mean).square().mean((2, 3, 4), keepdim=True)
    wide = (slice(None), slice(None), None, None, None)
    out = (x - mean) / (variance + NORM_EPS).sqrt() * weight[None][wide] + bias[None][wide]
    if film is not None:
        out = out * (film.gamma + 1)[wide] + film.beta[wide]
    out = out if residual is None else out + residual
    return F.leaky_relu(out, NEGATIVE_SLOPE) if act else out


def arguments(shape: tuple[int, ...], *, film: bool, residual: bool) -> list[Tensor | None]:
    """x far from mean 0, weight, bias, gamma, beta, residual, and the output's gradient."""
    b, c = shape[:2]
    conditions = [random(b, c, purpose="gamma") / 2, random(b, c, purpose="beta")] if film else [None, None]
    return [
        *(3 * random(*shape) + 20, random(c, purpose="weight"), random(c, purpose="bias")),
        *conditions,
        random(*shape, purpose="residual") if residual else None,
        random(*shape, purpose="gradient"),
    ]


def results(function, values: list[Tensor | None], act: bool) -> list[Tensor]:  # type: ignore[no-untyped-def]
    """The output and the gradient of every argument."""
    *given, gradient = (None if v is None else v.detach().clone().requires_grad_() for v in values)
    x, weight, bias, gamma, beta, residual = given
    film = None if gamma is None else Modulation(gamma, beta)
    out = function(x, weight, bias, film, residual, act)
    out.backward(gradient.detach())
    return [out, *(value.grad for value in given if value is not None)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "film, residual, act", [(False, False, False), (True, False, True), (False, True, True)]
)
def test_every_backend_is_the_definition_forward_and_backward(backend, shape, film, residual, act):
    values = arguments(shape, film=film, residual=residual)
    expected = results(reference, [None if v is None else v.double() for v in values], act)
    for found, wanted in zip(results(norm_act, values, act), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, atol=2e-4, rtol=2e-5)


def test_every_backend_takes_either_layout_and_changes_nothing_it_was_given(backend):
    x, weight, bias, gamma, beta, residual, _ = arguments(SHAPES[0], film=True, residual=True)
    values = (x, weight, bias, Modulation(gamma, beta), residual, True)
    before = [x.clone(), residual.clone()]
    plain = norm_act(*values)
    last = norm_act(
        x.contiguous(memory_format=CHANNELS_LAST),
        *values[1:4],
        residual.contiguous(memory_format=CHANNELS_LAST),
        True,
    )
    torch.testing.assert_close(last, plain, atol=1e-5, rtol=1e-5)
    assert last.is_contiguous(memory_format=CHANNELS_LAST) == (backend != "rows")
    assert torch.equal(x, before[0]) and torch.equal(residual, before[1])


def test_channels_last_holds_through_the_whole_network():
    need_triton()
    network = ResidualUNet(UNetConfig(features=(4, 6, 8), blocks=(1, 1, 1), time_dim=8))
    network.to(memory_format=CHANNELS_LAST)
    seen = []

    def look(module, arguments, output):  # type: ignore[no-untyped-def]
        seen.append((type(module).__name__, output.is_contiguous(memory_format=CHANNELS_LAST)))

    for module in network.modules():
        if type(module).__name__ in ("ConvNorm", "ResidualBlock", "Stack"):
            module.register_forward_hook(look)
    with using("triton"):
        x = random(1, 1, 8, 8, 8).to(memory_format=CHANNELS_LAST)
        out = network(x, torch.tensor([0.5]))
    assert len(seen) > 10 and all(held for _, held in seen)
    torch.testing.assert_close(out, network(x, torch.tensor([0.5])), atol=1e-4, rtol=1e-4)


def test_nothing_is_done_in_place_on_a_view():
    """Autograd copies what lies under a view that is changed: 16 copies a step of `tiny` once."""
    network = ResidualUNet(UNetConfig(features=(4, 8), blocks=(1, 1), time_dim=8))
    out = network(random(1, 1, 8, 8, 8), torch.tensor([0.5]))
    found, todo = set(), [out.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in found:
            found.add(node)
            todo += [before for before, _ in node.next_functions]
    assert not [node.name() for node in found if "CopySlices" in node.name()]


def test_recomputed_activations_give_the_same_gradients_from_less_memory():
    config = UNetConfig(features=(4, 8, 8), blocks=(1, 2, 1), time_dim=8)
    x, t = random(2, 1, 16, 16, 16), torch.tensor([0.2, 0.8])
    gradients, kept = [], []
    for wanted in (False, True):
        network = ResidualUNet(config)
        network.recompute(wanted)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda s, n=sizes: (n.append(s.numel()), s)[1], lambda s: s
        ):
            loss = network(x, t).square().mean()
        kept.append(sum(sizes))
        loss.backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert kept[1] < 0.6 * kept[0]


def test_more_elements_than_a_gpu_counts_are_refused_with_the_number_that_fits():
    volumes = torch.empty(9, 64, 160, 160, 160, device="meta")
    with pytest.raises(ConfigError, match="give a device 8 at once"):
        check_index(volumes, 64)
    check_index(volumes[:8], 63)
