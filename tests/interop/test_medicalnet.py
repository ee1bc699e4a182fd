"""MedicalNet against its function written down a second time, and its preprocessing step by step."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from mdae.errors import ModelError, ScanError
from mdae.interop.medicalnet import load_medicalnet, prepare_medicalnet
from tests.interop.small import small_resnet, write_medicalnet, write_scan

STRIDE = {1: 1, 2: 2, 3: 1, 4: 1}
DILATION = {1: 1, 2: 1, 3: 2, 4: 4}


def batch_norm(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    values = (w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *values, eps=1e-5)


def shortcut(x: Tensor, w: dict[str, Tensor], name: str, channels: int, stride: int) -> Tensor:
    """B: a convolution of 1 voxel. A: every stride-th voxel, and channels of zeros."""
    if f"{name}.downsample.0.weight" in w:
        x = F.conv3d(x, w[f"{name}.downsample.0.weight"], stride=stride)
        return batch_norm(x, w, f"{name}.downsample.1")
    x = x[:, :, ::stride, ::stride, ::stride]
    return F.pad(x, (0, 0, 0, 0, 0, 0, 0, channels - x.shape[1]))


def med3d(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Med3D's encoder: layer3 and layer4 dilate by 2 and 4 instead of striding."""
    x = F.relu(batch_norm(F.conv3d(x, w["conv1.weight"], stride=2, padding=3), w, "bn1"))
    x = F.max_pool3d(x, 3, 2, 1)
    for layer in (1, 2, 3, 4):
        blocks = {name.split(".")[1] for name in w if name.startswith(f"layer{layer}.")}
        for index in range(len(blocks)):
            name, d = f"layer{layer}.{index}", DILATION[layer]
            stride = STRIDE[layer] if index == 0 else 1
            if f"{name}.conv3.weight" in w:
                y = F.relu(batch_norm(F.conv3d(x, w[f"{name}.conv1.weight"]), w, f"{name}.bn1"))
                y = F.conv3d(y, w[f"{name}.conv2.weight"], stride=stride, padding=d, dilation=d)
                y = F.relu(batch_norm(y, w, f"{name}.bn2"))
                y = batch_norm(F.conv3d(y, w[f"{name}.conv3.weight"]), w, f"{name}.bn3")
            else:
                y = F.conv3d(x, w[f"{name}.conv1.weight"], stride=stride, padding=d, dilation=d)
                y = F.relu(batch_norm(y, w, f"{name}.bn1"))
                y = F.conv3d(y, w[f"{name}.conv2.weight"], padding=d, dilation=d)
                y = batch_norm(y, w, f"{name}.bn2")
            x = F.relu(y + shortcut(x, w, name, y.shape[1], stride) if y.shape != x.shape else y + x)
    return x


@pytest.mark.parametrize(
    "options",
    [{}, {"block": "basic"}, {"block": "basic", "shortcut_type": "A", "block_inplanes": [4, 6, 8, 10]}],
    ids=["as ResNet-50", "as ResNet-10", "as ResNet-18"],
)
def test_the_network_computes_what_its_authors_network_computes(options, tmp_path):
    weights = small_resnet(**options).state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "x.pth")
    backbone = load_medicalnet(tmp_path / "x.pth", "x")
    x = torch.randn(2, 1, 24, 40, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = med3d(weights, x)
        assert expected.shape[2:] == (3, 5, 4)  # an eighth of the input
        own = backbone.network.features(x)
    assert own.shape == (2, backbone.network.num_features)
    torch.testing.assert_close(own, expected.mean(dim=(2, 3, 4)), rtol=1e-5, atol=1e-5)


def test_without_dilation_it_would_be_another_function(tmp_path):
    x = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        own, monai = load_medicalnet(write_medicalnet(tmp_path), "x").network.features(x), small_resnet()(x)
    assert (own - monai).abs().max() > 1e-3


def test_the_segmentation_head_and_old_counts_are_no_obstacle(tmp_path):
    weights = {f"module.{k}": v for k, v in small_resnet().state_dict().items() if "num_batches" not in k}
    weights["module.conv_seg.0.weight"] = torch.ones(32, 32, 2, 2, 2)
    torch.save({"state_dict": weights}, tmp_path / "x.pth")
    assert load_medicalnet(tmp_path / "x.pth", "x").network.num_features == 20


def test_another_network_is_refused_in_one_line(tmp_path):
    weights = {f"module.{k}": v for k, v in small_resnet(n_input_channels=3).state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="3 contrasts"):
        load_medicalnet(tmp_path / "x.pth", "x")


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR"])
def test_a_scan_is_prepared_as_its_authors_evaluate(axes, tmp_path):
    backbone = load_medicalnet(write_medicalnet(tmp_path / "m"), "x")
    entry = write_scan(tmp_path / "scan.nii.gz", (30, 34, 12), axes=axes)
    in_file = nib.load(entry.path).get_fdata(dtype=np.float32).transpose(2, 1, 0)
    resized = ndimage.zoom(
        in_file, [new / old for new, old in zip((56, 448, 448), in_file.shape, strict=True)], order=0
    )
    expected = (resized - resized[resized > 0].mean()) / resized[resized > 0].std()
    own = backbone.to_input(backbone.prepare(entry))
    assert own.shape == (56, 448, 448)
    there = resized != 0
    np.testing.assert_allclose(own[there], expected[there], atol=1e-4)
    noise = own[~there]
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01


def test_another_scan_has_other_noise(tmp_path):
    first, second = (prepare_medicalnet(write_scan(tmp_path / f"{s}.nii.gz", seed=s)).data for s in (0, 1))
    corner = (slice(0, 40), slice(0, 40), slice(0, 4))
    assert np.abs(first[corner] - second[corner]).max() > 0.1


def test_a_scan_without_intensities_above_nought_is_set_aside(tmp_path):
    entry = write_scan(tmp_path / "scan.nii.gz")
    image = nib.load(entry.path)
    nib.save(nib.Nifti1Image(-image.get_fdata(dtype=np.float32), image.affine), entry.path)
    with pytest.raises(ScanError, match="above 0"):
        prepare_medicalnet(entry)
