"""BrainMVP: UniFormer and U-Net against readings of their code, the released sizes, MONAI's transforms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.transforms import CenterSpatialCrop, CropForeground, Resize, ScaleIntensityRangePercentiles

from mdae.data.io import Scan, read_scan
from mdae.data.preprocess import prepare_scan
from mdae.errors import ModelError
from mdae.interop.brainmvp import CONTRACT, SEEN, UNetEncoder, brainmvp_input, load_brainmvp
from mdae.interop.uniformer import UniFormer, UniFormerSizes
from tests.interop.small import drawn, unet_layout, uniformer_layout, write_brainmvp, write_scan

Weights = dict[str, torch.Tensor]


def conv(x: torch.Tensor, w: Weights, name: str, **options: int) -> torch.Tensor:
    return F.conv3d(x, w[f"{name}.weight"], w[f"{name}.bias"], **options)


def linear(x: torch.Tensor, w: Weights, name: str) -> torch.Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def over_channels(x: torch.Tensor, w: Weights, name: str, eps: float) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def by_statistics(x: torch.Tensor, w: Weights, name: str) -> torch.Tensor:
    mean, var, weight, bias = (
        w[f"{name}.{part}"].reshape(-1, 1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def attention(x: torch.Tensor, w: Weights, name: str) -> torch.Tensor:
    query, key, value = linear(x, w, f"{name}.qkv").chunk(3, dim=-1)
    heads = [
        (query[..., i : i + 64] @ key[..., i : i + 64].mT / 8).softmax(-1) @ value[..., i : i + 64]
        for i in range(0, x.shape[-1], 64)
    ]
    return linear(torch.cat(heads, -1), w, f"{name}.proj")


def read_uniformer(x: torch.Tensor, w: Weights, depths: tuple[int, ...]) -> torch.Tensor:
    """BrainMVP's UniFormer, from the order of its code: z comes first."""
    x = x.permute(0, 1, 4, 2, 3)
    for stage, depth in enumerate(depths, start=1):
        x = conv(x, w, f"patch_embed{stage}.proj", stride=2)
        x = over_channels(x.movedim(1, -1), w, f"patch_embed{stage}.norm", 1e-5).movedim(-1, 1)
        for block in (f"blocks{stage}.{number}" for number in range(depth)):
            x = x + conv(x, w, f"{block}.pos_embed", padding=1, groups=x.shape[1])
            if stage <= 2:
                y = conv(by_statistics(x, w, f"{block}.norm1"), w, f"{block}.conv1")
                y = conv(y, w, f"{block}.attn", padding=2, groups=x.shape[1])
                x = x + conv(y, w, f"{block}.conv2")
                y = F.gelu(conv(by_statistics(x, w, f"{block}.norm2"), w, f"{block}.mlp.fc1"))
                x = x + conv(y, w, f"{block}.mlp.fc2")
            else:
                tokens = x.flatten(2).mT
                tokens = tokens + attention(
                    over_channels(tokens, w, f"{block}.norm1", 1e-6), w, f"{block}.attn"
                )
                y = F.gelu(linear(over_channels(tokens, w, f"{block}.norm2", 1e-6), w, f"{block}.mlp.fc1"))
                x = (tokens + linear(y, w, f"{block}.mlp.fc2")).mT.reshape(x.shape)
    return by_statistics(x, w, "norm").mean(dim=(2, 3, 4))


def read_unet(x: torch.Tensor, w: Weights) -> torch.Tensor:
    """The encoder of BrainMVP's U-Net."""

    def block(x: torch.Tensor, name: str) -> torch.Tensor:
        y = x
        for number in (1, 2):
            scale = (w[f"{name}.gn{number}.{part}"] for part in ("weight", "bias"))
            y = conv(F.group_norm(y, 8, *scale).relu(), w, f"{name}.conv{number}", padding=1)
        return x + y

    x = block(conv(x, w, "conv1a", padding=1), "conv1b")
    for stage, letters in ((2, "ab"), (3, "ab"), (4, "abcd")):
        x = conv(x, w, f"ds{stage - 1}", stride=2, padding=1)
        for letter in letters:
            x = block(x, f"conv{stage}{letter}")
    return x.mean(dim=(2, 3, 4))


def scan_of(data: np.ndarray) -> Scan:
    return Scan(data, np.eye(4), Path("made_up.nii"))


def volume(*shape: int) -> torch.Tensor:
    return torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_the_uniformer_is_what_a_reading_of_its_code_gives(tmp_path):
    network = load_brainmvp(write_brainmvp(tmp_path), "x").network
    x = volume(32, 48, 16)
    want = read_uniformer(x, drawn(uniformer_layout()), (1, 2, 1, 1))
    torch.testing.assert_close(network.features(x), want, rtol=1e-4, atol=1e-4)
    two_heads = drawn(uniformer_layout(widths=(8, 8, 64, 128)))
    wide = UniFormer(UniFormerSizes.of(two_heads, "file"))
    wide.load_state_dict(two_heads)
    torch.testing.assert_close(
        wide.eval().features(x), read_uniformer(x, two_heads, (1, 2, 1, 1)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("prefix", ["", "module."])
@torch.no_grad()
def test_the_unet_is_what_a_reading_of_its_code_gives(prefix, tmp_path):
    weights = drawn(unet_layout())
    others = {
        "rep_template": torch.zeros(2, 2),
        "up4conva.weight": torch.ones(2),
        "up1conv.bias": torch.ones(1),
    }
    content = {"state_dict": {f"{prefix}{name}": value for name, value in {**weights, **others}.items()}}
    torch.save(content, tmp_path / "BrainMVP_unet.pt")
    backbone = load_brainmvp(tmp_path, "x")
    assert backbone.network.first_conv == "conv1a" and backbone.network.num_features == 64
    x = volume(16, 24, 8)
    torch.testing.assert_close(backbone.network.features(x), read_unet(x, weights), rtol=1e-4, atol=1e-4)
    held = [id(weight) for group in backbone.network.groups() for weight in group.parameters()]
    assert sorted(held) == sorted(id(weight) for weight in backbone.network.parameters())


def test_at_the_released_sizes_there_are_as_many_weights_as_the_file_holds():
    layout = uniformer_layout(widths=(64, 128, 320, 512), depths=(3, 4, 8, 3))
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in layout.items()}
        network = UniFormer(UniFormerSizes.of(weights, "file"))
    assert len(network.state_dict()) == 329
    assert sum(weight.numel() for weight in network.parameters()) == 22_038_464
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == layout


def test_the_fit_is_that_of_monais_transforms():
    rng = np.random.default_rng(0)
    data = np.zeros((70, 60, 40), np.float32)
    data[4:64, 3:53, 2:34] = rng.gamma(3, 1, (60, 50, 32))
    prepared = prepare_scan(scan_of(data), replace(CONTRACT, crop="none"))
    scaled = ScaleIntensityRangePercentiles(5, 95, 0, 1, clip=True)(torch.from_numpy(data)[None])
    resized = Resize((128, 128, 64), mode="trilinear")(CropForeground()(scaled))
    want = CenterSpatialCrop(SEEN)(resized)[0].numpy()
    got = brainmvp_input(prepared)
    assert got.shape == SEEN and got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=2e-3)


def test_an_empty_volume_is_no_error():
    prepared = prepare_scan(scan_of(np.random.default_rng(0).random((20, 20, 20), np.float32) + 1), CONTRACT)
    flat = replace(prepared, data=np.zeros_like(prepared.data))
    assert (brainmvp_input(flat) == 0).all()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"conv1a.weight": torch.ones(8, 4, 3, 3, 3)}, "neither a UniFormer"),
        ({"conv4e.gn1.weight": torch.ones(8)}, r"1 left over, e\.g\. conv4e"),
        ({"encoder.uniformer.norm.weight": torch.ones(8)}, "not a UniFormer of four stages"),
    ],
)
def test_another_network_is_one_line(change, complaint, tmp_path):
    torch.save({**drawn(unet_layout()), **change}, tmp_path / "x.pt")
    with pytest.raises(ModelError, match=complaint) as caught:
        load_brainmvp(tmp_path / "x.pt", "x")
    assert "\n" not in str(caught.value) and caught.value.mend


def test_a_uniformer_of_several_contrasts_is_one_line():
    weights = drawn(uniformer_layout())
    weights["patch_embed1.proj.weight"] = torch.ones(8, 4, 2, 2, 2)
    with pytest.raises(ModelError, match="a UniFormer of 4 contrasts") as caught:
        UniFormerSizes.of(weights, "file")
    assert caught.value.mend


def test_all_that_the_file_holds_beside_the_encoder_is_said(tmp_path, caplog):
    with caplog.at_level("INFO"):
        load_brainmvp(write_brainmvp(tmp_path), "x")
    assert (
        "1 weights left out: the decoder" in caplog.text
        and "1 weights left out: the templates" in caplog.text
    )


def test_a_head_of_any_scale_and_offset_is_the_same_to_the_network(tmp_path):
    entry = write_scan(tmp_path / "a.nii.gz")
    scan = read_scan(entry.path)
    first = brainmvp_input(prepare_scan(scan, CONTRACT))
    louder = replace(scan, data=np.where(scan.data > 0, 7 * scan.data, 0))
    np.testing.assert_allclose(brainmvp_input(prepare_scan(louder, CONTRACT)), first, atol=1e-3)
    assert first.min() == 0 and first.max() == 1


def test_the_unets_stages_are_groups():
    network = UNetEncoder(8)
    assert [len(group) for group in network.groups()] == [2, 3, 3, 5]
