"""Ours and other people's encoders keep one contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mdae.evaluation.features.small_cnn import SmallCNN
from mdae.interop.third_party import THIRD_PARTY, open_third_party
from mdae.networks import StageEncoder
from mdae.seeding import torch_generator
from tests.contract import encoders, networks
from tests.contract.test_networks import KINDS, small
from tests.interop.small import SMALL

SIDES = {  # smaller than their patches, for those that take other volumes too
    "brainmvp": (32, 32, 16),
    "cnn": (32, 32, 32),
    "dinov2": (28, 28, 3),
    "medicalnet": (16, 32, 32),
    "mri-core": (32, 32, 3),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def case(kind: str, folder: Path) -> tuple[encoders.Make, torch.Tensor]:
    """What makes the kind's encoder, and volumes that it takes."""
    if kind in KINDS:
        spec = small(kind)
        return lambda: networks.built(spec).encoder, networks.volumes(networks.built(spec))
    generator = torch_generator(0, "volumes")
    if kind == "cnn":
        return lambda: SmallCNN(0).eval(), torch.randn(2, 1, *SIDES[kind], generator=generator)
    place = f"{kind}:{SMALL[kind].write(folder / kind, 0)}"
    patch = SIDES.get(kind) or open_third_party(place).patch
    return lambda: open_third_party(place).network, torch.randn(2, 1, *patch, generator=generator)


@pytest.mark.parametrize("check", encoders.QUICK, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", [*KINDS, *sorted(THIRD_PARTY), "cnn"])
def test_it_keeps_the_contract(kind, check, folder):
    make, volumes = case(kind, folder)
    assert isinstance(make(), StageEncoder)
    check(make, volumes)


def test_an_encoder_that_breaks_the_contract_is_caught():
    """The checks can fail: one whose samples see each other, and which forgets its last normalisation."""

    class Leaky(SmallCNN):
        def forward(self, x):
            return super().forward(x - x.mean(dim=0))

        def groups(self):
            return [layer[0] for layer in self.layers]

    volumes = torch.randn(2, 1, *SIDES["cnn"], generator=torch_generator(0, "volumes"))
    for check in (encoders.check_samples_do_not_see_each_other, encoders.check_groups_hold_each_weight_once):
        with pytest.raises(AssertionError):
            check(lambda: Leaky(0).eval(), volumes)
