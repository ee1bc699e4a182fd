"""The second trivial baseline: a small 3D CNN that learns from the labels alone, as most studies would begin.

Five convolutions of stride 2 on the middle of the head at 2 mm, each with a normalisation over groups of channels, and
the means of the last one's channels. A normalisation over each channel alone would make all those means alike.
"""

from __future__ import annotations

import functools

import numpy as np
from torch import Tensor, nn

from mdae.data.preprocess import PreparedScan, Preprocessing
from mdae.errors import ConfigError
from mdae.evaluation.features.histogram import OF_NO_SCAN
from mdae.interop.backbone import Backbone
from mdae.interop.raw import centred, prepare_by
from mdae.networks import StageEncoder
from mdae.networks.hub import local_folder
from mdae.networks.saved import load_model
from mdae.seeding import name_and_seed, torch_generator
from mdae.types import Shape3

CNN = "cnn"
WIDTHS = (16, 32, 64, 128, 128)
PATCH: Shape3 = (96, 96, 96)
CONTRACT = Preprocessing(spacing_mm=(2.0, 2.0, 2.0))


class SmallCNN(StageEncoder):
    """Volumes of one contrast to its last stage, of 128 channels.

    Args:
        seed: of the weights.
    """

    in_channels, widths = 1, WIDTHS[-1:]
    first_conv = "layers.0.0"

    def __init__(self, seed: int) -> None:
        super().__init__()
        layers = []
        for before, width in zip((1, *WIDTHS), WIDTHS, strict=False):
            convolution = nn.Conv3d(before, width, 3, stride=2, padding=1, bias=False)
            layers.append(nn.Sequential(convolution, nn.GroupNorm(8, width), nn.ReLU()))
        self.layers = nn.ModuleList(layers)
        generator = torch_generator(seed, "cnn")
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                spread = (2 / module.weight[0].numel()) ** 0.5
                nn.init.normal_(module.weight, 0.0, spread, generator=generator)

    def forward(self, x: Tensor) -> list[Tensor]:
        for layer in self.layers:
            x = layer(x)
        return [x]

    def groups(self) -> list[nn.Module]:
        return list(self.layers)


def is_cnn(spec: str) -> bool:
    """Whether it reads cnn, cnn:SEED, cnn:MODEL or cnn:MODEL:SEED."""
    return spec.partition(":")[0] == CNN


def small_cnn(spec: str) -> Backbone:
    """The network of cnn, cnn:SEED, cnn:MODEL or cnn:MODEL:SEED, to be fitted by fine-tuning.

    It sees the middle of the head at 2 mm, or the middle window of scans that are prepared as a model's are.

    Raises:
        ConfigError, ModelError: no such model, or one of several contrasts.
    """
    place, seed = name_and_seed(spec.partition(":")[2])
    if place.isdecimal():
        place, seed = "", int(place)
    contract, patch = _seen_as(place) if place else (CONTRACT, PATCH)
    network = SmallCNN(seed).eval()

    def to_input(prepared: PreparedScan) -> np.ndarray:
        return centred(prepared.data, patch, prepared.record.background)

    return Backbone(
        name=f"{CNN}-{seed}" if seed else CNN,
        identity=f"{CNN} {seed}",
        network=network,
        preprocessing={"contract": contract.to_dict(), "fit": "middle window"},
        prepare=functools.partial(prepare_by, contract=contract),
        to_input=to_input,
        patch=patch,
        source="random weights",
        pretraining=OF_NO_SCAN,
        spacing_mm=contract.spacing_mm,
        scratch=True,
    )


def _seen_as(place: str) -> tuple[Preprocessing, Shape3]:
    """How a model of ours sees a scan."""
    model = load_model(local_folder(place))
    if model.channels:
        mend = f"write {CNN}, or name a model of single scans"
        raise ConfigError(f"{CNN} sees one contrast, this model several", where=place, mend=mend)
    return model.contract, model.patch
