"""nnssl's encoders against dynamic-network-architectures, and their preprocessing against nnU-Net's, its parent."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from mdae.errors import ModelError, ScanError
from mdae.interop.nnssl import load_nnssl, prepare_nnssl, resample_nnssl
from mdae.interop.third_party import open_third_party
from tests.interop.small import adaptation_plan, res_enc, write_nnssl, write_scan

X = torch.randn(2, 1, 16, 24, 20, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def reference(network: nn.Module) -> torch.Tensor:
    """The mean of each stage by the peer's own network."""
    encoder = network.encoder
    x, means = encoder.stem(X), []
    for stage in encoder.stages:
        x = stage(x)
        means.append(x.mean(dim=(2, 3, 4)))
    return torch.cat(means, dim=1)


@torch.inference_mode()
def features(path: Path) -> torch.Tensor:
    return load_nnssl(path, "x").network.features(X)


def saved(folder: Path, weights: dict, **others: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"network_weights": weights, **others}, folder / "checkpoint_final.pth")
    return folder / "checkpoint_final.pth"


def test_the_network_computes_what_its_authors_network_computes(tmp_path):
    torch.testing.assert_close(features(write_nnssl(tmp_path)), reference(res_enc()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "head", [{}, {"projector.layer1.0.weight": torch.ones(4, 18)}, {"rotation_proj_head.bias": torch.ones(4)}]
)
def test_contrastive_checkpoints_have_an_encoder_and_heads(head, tmp_path, caplog):
    """SimCLR, VoCo and SwinUNETR keep the encoder without a decoder, their heads beside it."""
    weights = {k: v for k, v in res_enc().state_dict().items() if k.startswith("encoder.")} | head
    with caplog.at_level("INFO"):
        own = features(saved(tmp_path, weights, nnssl_adaptation_plan=adaptation_plan()))
    torch.testing.assert_close(own, reference(res_enc()), rtol=1e-5, atol=1e-5)
    assert all(f"left out, not of the encoder: {name.partition('.')[0]}" in caplog.text for name in head)


def test_where_sparks_conversion_untied_the_names_what_was_computed_with_is_taken(tmp_path, caplog):
    weights = {name: value.clone() for name, value in res_enc().state_dict().items()}
    for name, value in weights.items():
        if name.endswith(("conv.weight", "norm.weight")):
            value.fill_(0.1)  # left behind at the start
    plan = adaptation_plan()
    with caplog.at_level("INFO"):
        own = features(
            saved(tmp_path, weights, nnssl_adaptation_plan=plan, spark_weights={"a": torch.ones(1)})
        )
    torch.testing.assert_close(own, reference(res_enc()), rtol=1e-5, atol=1e-5)
    assert "differ from their copies under all_modules" in caplog.text


def test_checkpoints_that_name_each_weight_once_are_read_too(tmp_path):
    weights = {k: v for k, v in res_enc().state_dict().items() if ".all_modules." not in k}
    own = features(saved(tmp_path, weights, nnssl_adaptation_plan=adaptation_plan()))
    torch.testing.assert_close(own, reference(res_enc()), rtol=1e-5, atol=1e-5)


def test_the_plan_says_where_the_encoder_is(tmp_path):
    moved = {k.replace("encoder.", "online.body.", 1): v for k, v in res_enc().state_dict().items()}
    keys = {"key_to_encoder": "online.body.stages", "key_to_stem": "online.body.stem"}
    own = features(saved(tmp_path, moved, nnssl_adaptation_plan=adaptation_plan(**keys)))
    torch.testing.assert_close(own, reference(res_enc()), rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match=r"no weights under encoder\.stages, only decoder, online"):
        load_nnssl(saved(tmp_path / "b", moved, nnssl_adaptation_plan=adaptation_plan()), "x")


def test_a_file_that_every_run_writes_is_named_by_its_folder(tmp_path):
    folder = write_nnssl(tmp_path / "ResEncL-OpenMind-VoCo")
    names = {open_third_party(f"nnssl:{path}").name for path in (folder, folder / "checkpoint_final.pth")}
    assert names == {"nnssl:ResEncL-OpenMind-VoCo"}


def test_without_a_plan_openminds_settings_are_assumed_aloud(tmp_path, caplog):
    backbone = load_nnssl(saved(tmp_path, res_enc().state_dict()), "x")
    assert backbone.patch == (160, 160, 160) and "no adaptation plan" in caplog.text


def test_an_encoder_of_several_contrasts_is_refused_without_a_plan_too(tmp_path):
    weights = {
        name: value.repeat(1, 2, 1, 1, 1) if name.endswith("stem.convs.0.conv.weight") else value
        for name, value in res_enc().state_dict().items()
        if ".all_modules." not in name
    }
    with pytest.raises(ModelError, match="an encoder of 2 contrasts"):
        load_nnssl(saved(tmp_path, weights), "x")


def test_a_plan_with_sizes_is_checked_against_what_can_be_had(tmp_path):
    kwargs = {"strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]], "norm_op": "torch.nn.modules.InstanceNorm3d"}
    plan = {"arch_class_name": "ResidualEncoderUNet", "arch_kwargs": kwargs}
    path = write_nnssl(tmp_path / "good", plan=adaptation_plan(architecture_plans=plan))
    assert load_nnssl(path, "x").network.num_features == 18
    kwargs["strides"] = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    with pytest.raises(ModelError, match="strides"):
        load_nnssl(write_nnssl(tmp_path / "bad", plan=adaptation_plan(architecture_plans=plan)), "x")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"architecture_plans": {"arch_class_name": "PlainConvUNet", "arch_kwargs": None}},
            "kind PlainConvUNet",
        ),
        ({"pretrain_num_input_channels": 4}, "4 contrasts"),
        ({"recommended_downstream_patchsize": [16, 24, 21]}, "multiple of 4"),
        ({"pretrain_plan": {}}, "no adaptation plan"),
    ],
)
def test_other_networks_are_refused_in_one_line(changes, complaint, tmp_path):
    with pytest.raises(ModelError, match=complaint) as caught:
        load_nnssl(write_nnssl(tmp_path, plan=adaptation_plan(**changes)), "x")
    assert "\n" not in str(caught.value) and caught.value.mend


@pytest.mark.parametrize(
    ("option", "value"),
    [("normalization_schemes", ["RescaleTo01"]), ("use_mask_for_norm", [True]), ("spacing", [3, 1, 1])],
)
def test_other_preprocessing_is_refused(option, value, tmp_path):
    plan = json.loads(json.dumps(adaptation_plan()))
    plan["pretrain_plan"]["configurations"]["onemmiso"][option] = value
    with pytest.raises(ModelError, match=r"normalisation|spacing"):
        load_nnssl(write_nnssl(tmp_path, plan=plan), "x")


def test_of_several_configurations_the_one_of_one_millimetre_is_meant(tmp_path):
    plan = json.loads(json.dumps(adaptation_plan()))
    configurations = plan["pretrain_plan"]["configurations"]
    configurations["median"] = {**configurations["onemmiso"], "spacing": [2, 2, 2]}
    assert load_nnssl(write_nnssl(tmp_path / "a", plan=plan), "x").preprocessing["spacing_mm"] == 1.0
    del configurations["onemmiso"]
    assert load_nnssl(write_nnssl(tmp_path / "b", plan=plan), "x").preprocessing["spacing_mm"] == 2.0
    configurations["other"] = configurations["median"]
    with pytest.raises(ModelError, match="no adaptation plan"):
        load_nnssl(write_nnssl(tmp_path / "c", plan=plan), "x")


@pytest.mark.parametrize(
    "spacing_mm",
    [(1.0, 1.0, 1.0), (0.7, 0.7, 0.8), (1.3, 1.1, 1.3), (0.9, 0.9, 5.0), (4.5, 0.5, 0.5), (3, 3, 0.8)],
)
def test_scans_are_prepared_as_nnunet_prepares_them(spacing_mm, tmp_path):
    """Cropped, z-scored and resampled by nnU-Net's own functions, which are nnssl's."""
    cropping = pytest.importorskip("nnunetv2.preprocessing.cropping.cropping")
    resampling = pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling")
    entry = write_scan(tmp_path / "scan.nii.gz", (24, 26, 22), spacing_mm=spacing_mm)
    prepared = prepare_nnssl(entry)

    data, *_ = cropping.crop_to_nonzero(nib.load(entry.path).get_fdata(dtype=np.float32)[None])
    data = (data - data.mean()) / data.std()
    shape = resampling.compute_new_shape(data.shape[1:], spacing_mm, (1, 1, 1))
    options = {
        "is_seg": False,
        "order": 3,
        "order_z": 0,
        "force_separate_z": None,
    }  # as nnssl's plans have it
    expected = resampling.resample_data_or_seg_to_shape(data, shape, spacing_mm, (1, 1, 1), **options)[0]
    np.testing.assert_allclose(prepared.data, np.asarray(expected), atol=2e-4)


def test_resampling_to_the_same_spacing_changes_nothing():
    volume = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    np.testing.assert_array_equal(resample_nnssl(volume, (1.0, 1.0, 1.0), 1.0), volume)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "ASL"])
def test_the_network_sees_the_files_axes_last_first_as_nnssl_reads_them(axes, tmp_path):
    backbone = load_nnssl(write_nnssl(tmp_path / "nnssl"), "x")
    entry = write_scan(tmp_path / "scan.nii.gz", (30, 34, 28), axes=axes)
    in_file = nib.load(entry.path).get_fdata(dtype=np.float32)
    box = tuple(slice(w.min(), w.max() + 1) for w in np.nonzero(in_file))
    crop = ((in_file[box] - in_file[box].mean()) / in_file[box].std()).transpose(2, 1, 0)
    window = backbone.to_input(backbone.prepare(entry))
    starts = [(side - edge) // 2 for side, edge in zip(crop.shape, (16, 24, 20), strict=True)]
    assert min(starts) >= 0
    middle = tuple(slice(a, a + edge) for a, edge in zip(starts, (16, 24, 20), strict=True))
    np.testing.assert_allclose(window, crop[middle], atol=1e-4)


def test_a_plan_whose_reader_turns_files_is_shown_ras(tmp_path):
    plan = json.loads(json.dumps(adaptation_plan()))
    plan["pretrain_plan"]["image_reader_writer"] = "NibabelIOWithReorient"
    backbone = load_nnssl(write_nnssl(tmp_path / "nnssl", plan=plan), "x")
    ras, lps = (write_scan(tmp_path / f"{axes}.nii.gz", (31, 35, 29), axes=axes) for axes in ("RAS", "LPS"))
    turned = np.ascontiguousarray(nib.load(ras.path).get_fdata(dtype=np.float32)[::-1, ::-1])
    nib.save(nib.Nifti1Image(turned, nib.load(lps.path).affine), lps.path)
    first, second = (backbone.to_input(backbone.prepare(entry)) for entry in (ras, lps))
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_small_volumes_are_padded_with_nought(tmp_path):
    backbone = load_nnssl(write_nnssl(tmp_path / "nnssl"), "x")
    window = backbone.to_input(backbone.prepare(write_scan(tmp_path / "scan.nii.gz", (10, 12, 9))))
    assert window.shape == (16, 24, 20) and (window[0] == 0).all() and (window != 0).any()


def test_a_box_of_one_intensity_is_set_aside(tmp_path):
    data = np.zeros((12, 12, 12), np.float32)
    data[3:9, 3:9, 3:9] = 7
    entry = write_scan(tmp_path / "scan.nii.gz")
    nib.save(nib.Nifti1Image(data, np.eye(4)), entry.path)
    with pytest.raises(ScanError, match="constant"):
        prepare_nnssl(entry)
