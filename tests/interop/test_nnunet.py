"""Our weights in the network that nnU-Net builds from our plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdae.data.intensity import Window, ZScore
from mdae.errors import ConfigError
from mdae.interop.nnunet import adapt_plans, architecture, nnunet_weights, save_nnunet
from mdae.networks import PRESETS
from mdae.networks.unet import ResidualUNet, UNetConfig
from mdae.seeding import numpy_generator, torch_generator

nnunet = pytest.importorskip("nnunetv2.utilities.get_network_from_plans")

SMALL = UNetConfig(features=(4, 6, 6, 8), blocks=(1, 2, 1, 1), time_dim=16)


def random_network(config: UNetConfig = SMALL) -> ResidualUNet:
    """A network whose every number counts: biases that normalisation removes, modulations, norms."""
    network = ResidualUNet(config)
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch_generator(0, "w", index)))
    return network.eval()


def network_of_the_plan(config: UNetConfig, num_channels: int, num_heads: int = 3) -> torch.nn.Module:
    """The network that nnU-Net builds."""
    plan = architecture(config)
    return nnunet.get_network_from_plans(
        plan["network_class_name"],
        plan["arch_kwargs"],
        plan["_kw_requires_import"],
        num_channels,
        num_heads,
        deep_supervision=True,
    )


def load(theirs: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Load weights; only the heads may be left as they were, and nothing left over."""
    result = theirs.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys
    assert all(".seg_layers." in name for name in result.missing_keys)


def volume(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch_generator(0, "volume"))


@pytest.mark.parametrize("num_channels", [1, 2, 4])
def test_the_same_volume_in_every_channel_gives_our_features_in_nnu_nets_network(num_channels):
    ours, theirs = random_network(), network_of_the_plan(SMALL, num_channels)
    load(theirs, nnunet_weights(ours, num_channels))
    x, t = volume(2, 1, 16, 24, 16), torch.zeros(2)
    films = ours.film(t)
    assert max(film.gamma.abs().max() for film in films) > 0.05, "a fold of nothing proves nothing"
    stages = ours.encoder(x, films[: sum(SMALL.blocks)])
    z_first = x.transpose(2, 4).repeat(1, num_channels, 1, 1, 1)
    theirs_stages = theirs.encoder(z_first)
    assert len(stages) == len(theirs_stages) == 4
    for one, other in zip(stages, theirs_stages, strict=True):
        torch.testing.assert_close(one, other.transpose(2, 4), atol=1e-5, rtol=1e-5)
    hook = theirs.decoder.stages[-1].register_forward_hook(lambda *call: setattr(theirs, "last", call[2]))
    theirs(z_first)
    hook.remove()
    head = ours.decoder.seg_layers[-1]
    torch.testing.assert_close(head(theirs.last.transpose(2, 4)), ours(x, t), atol=1e-5, rtol=1e-5)


def test_every_channel_of_a_widened_stem_has_an_equal_share():
    ours = random_network()
    one, four = nnunet_weights(ours, 1), nnunet_weights(ours, 4)
    stem = "encoder.stem.convs.0.conv.weight"
    assert four[stem].shape[1] == 4
    assert torch.equal(four[stem], one[stem].repeat(1, 4, 1, 1, 1) / 4)
    assert all(torch.equal(four[name], value) for name, value in one.items() if "encoder.stem" not in name)


def test_other_times_fold_to_other_weights():
    ours = random_network()
    early, late = nnunet_weights(ours, 1), nnunet_weights(ours, 1, t=0.9)
    moved = {name for name in early if not torch.equal(early[name], late[name])}
    assert any(name.startswith("encoder.stages.0.blocks.0.conv1.norm") for name in moved)
    assert any(name.startswith("decoder.stages.0.convs.0.norm") for name in moved)
    assert all(".norm." in name or ".all_modules.1." in name for name in moved)


@pytest.mark.parametrize("name", [n for n, found in PRESETS.items() if isinstance(found.config, UNetConfig)])
def test_names_and_shapes_are_nnu_nets_but_for_the_heads(name):
    config = PRESETS[name].config
    with torch.device("meta"):
        theirs = network_of_the_plan(config, 4).state_dict()
    ours = nnunet_weights(ResidualUNet(config), 4)
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items() if ".seg_layers." not in key
    }


def test_nnu_nets_own_loader_takes_the_file(tmp_path):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    ours, theirs = random_network(), network_of_the_plan(SMALL, 3)
    heads = {name: value.clone() for name, value in theirs.state_dict().items() if ".seg_layers." in name}
    save_nnunet(ours, tmp_path / "weights.pth", 3)
    load_pretrained_weights(theirs, str(tmp_path / "weights.pth"))
    loaded, expected = theirs.state_dict(), nnunet_weights(ours, 3)
    assert loaded.keys() == expected.keys() | heads.keys()
    assert all(torch.equal(loaded[name], value) for name, value in (expected | heads).items())


def test_channels_that_the_stem_cannot_be_widened_to_are_refused():
    two = ResidualUNet(UNetConfig(in_channels=2, features=(4, 6), blocks=(1, 1), time_dim=16))
    assert nnunet_weights(two, 4)["encoder.stem.convs.0.conv.weight"].shape[1] == 4
    with pytest.raises(ConfigError, match="multiple of 2"):
        nnunet_weights(two, 3)


DATA = dict.fromkeys(
    ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 3.0
)  # as nnU-Net's fingerprint of a channel has them


def planned() -> dict[str, Any]:
    """What matters of a plan for scans of 240 x 200 x 50 voxels (x, y, z) of 1 x 1 x 3 mm, transposed."""
    return {
        "plans_name": "nnUNetResEncUNetLPlans",
        "original_median_spacing_after_transp": [1.0, 3.0, 1.0],
        "original_median_shape_after_transp": [200, 50, 240],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "foreground_intensity_properties_per_channel": {"0": DATA},
        "configurations": {
            "2d": {},
            "3d_lowres": {"next_stage": "3d_cascade_fullres"},
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [True],
                "batch_size": 3,
                "batch_dice": False,
                "architecture": {},
            },
        },
    }


def adapted(plans: dict[str, Any], **changes: Any) -> dict[str, Any]:
    options = {"patch": (32, 16, 24), "spacing_mm": (1.0, 1.0, 1.0), "intensity": ZScore(), **changes}
    return adapt_plans(plans, SMALL, name="ours", **options)


def test_a_plan_keeps_what_is_the_datas_and_takes_what_is_the_networks():
    before = planned()
    plans = adapted(before, spacing_mm=(1.0, 2.0, 1.5))
    assert before == planned()
    assert plans["plans_name"] == "ours" and list(plans["configurations"]) == ["3d_fullres"]
    own = plans["configurations"]["3d_fullres"]
    assert own["normalization_schemes"] == ["ZScoreNormalization"] and own["use_mask_for_norm"] == [False]
    assert own["batch_size"] == 3 and own["patch_size"] == [24, 16, 32] and own["spacing"] == [1.5, 2.0, 1.0]
    assert own["median_image_size_in_voxels"] == [100, 100, 240]
    assert plans["transpose_forward"] == plans["transpose_backward"] == [0, 1, 2]
    assert own["data_identifier"] == "mdae_whole_1x2x1.5mm"
    assert adapted(before, batch=7)["configurations"]["3d_fullres"]["batch_size"] == 7


def test_features_of_a_stripped_brain_are_those_that_the_encoder_knows():
    """Normalised within the brain alone, the background is 0 instead of about -3, and pooled features another's."""
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization

    rng = numpy_generator(0, "stripped")
    x, y, z = np.indices((32, 32, 32))
    brain = (x - 16) ** 2 + (y - 16) ** 2 + (z - 15) ** 2 < 13**2
    raw = np.where(brain, rng.normal(500, 150, brain.shape).clip(1), 0).astype(np.float32)
    ours = (raw - raw[brain].mean()) / raw[brain].std()
    network = random_network().encoder.eval()

    def features(volume: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            maps = network(torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None])
        return np.concatenate([stage.mean(dim=(2, 3, 4)).numpy()[0] for stage in maps])

    def normalised(plans: dict[str, Any]) -> np.ndarray:
        masked = plans["configurations"]["3d_fullres"]["use_mask_for_norm"][0]
        outside = np.where(brain, 0, -1)[None]
        return np.asarray(ZScoreNormalization(masked, {}).run(raw.copy(), outside[0]))

    known, plans = features(ours), planned()
    changes = [
        np.linalg.norm(features(normalised(p)) - known) / np.linalg.norm(known)
        for p in (adapted(plans), plans)
    ]
    assert changes[0] < 0.03 < changes[1], changes


def test_other_files_and_patches_are_refused():
    with pytest.raises(ConfigError, match="nnUNetv2_plan_experiment"):
        adapted({"configurations": {}})
    with pytest.raises(ConfigError, match="multiple of 8"):
        adapted(planned(), patch=(16, 16, 20))


@pytest.mark.parametrize("intensity", [Window(-160, 240, mean=-60.0, std=90.0), Window(-160, 240)])
def test_a_window_of_the_networks_is_nnu_nets_where_it_can_be(intensity):
    """Its CTNormalization, given our numbers, gives our intensities; a window scaled by each scan stays the user's."""
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization

    plans = adapted(planned(), intensity=intensity)
    own = plans["configurations"]["3d_fullres"]
    if intensity.mean is None:
        assert plans["foreground_intensity_properties_per_channel"] == {"0": DATA}
        assert own["normalization_schemes"] == ["ZScoreNormalization"]
        return
    assert own["normalization_schemes"] == ["CTNormalization"] and own["use_mask_for_norm"] == [False]
    raw = numpy_generator(0, "hu").normal(-50, 300, (8, 9, 10)).astype(np.float32)
    properties = plans["foreground_intensity_properties_per_channel"]["0"]
    assert properties.keys() == DATA.keys()
    theirs = CTNormalization(False, properties).run(raw.copy(), None)
    np.testing.assert_allclose(theirs, (raw.clip(-160, 240) + 60) / 90, atol=1e-5)


def test_the_file_is_read_without_running_it(tmp_path: Path):
    save_nnunet(random_network(), tmp_path / "weights.pth", 2)
    assert set(torch.load(tmp_path / "weights.pth", weights_only=True)) == {"network_weights"}
