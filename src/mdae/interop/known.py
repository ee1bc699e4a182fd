"""Weights on the Hugging Face Hub that are known to exist, each by a short name.

Only what was seen: the repository's page or code that loads it. None was downloaded for this table, so that the layouts
are verified on made-up checkpoints of the same keys, as the readers' tests are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Known:
    """Weights of somebody.

    Attributes:
        name: the short one.
        spec: what stands for it, KIND:OWNER/REPO.
        what: objective and network.
        data: pre-trained on.
        licence: of the weights, as their page says.
        size: of the file.
        verified: where the layout was read, and what on.
    """

    name: str
    spec: str
    what: str
    data: str
    licence: str
    size: str
    verified: str


def _openmind(name: str, repository: str, objective: str) -> Known:
    return Known(
        name=f"openmind-{name}",
        spec=f"nnssl:{repository}",
        what=f"ResEnc-L by {objective}, 102 M parameters of the encoder",
        data="OpenMind: about 114,000 volumes of brain MRI, of OpenNeuro",
        licence="CC BY 4.0",
        size="about 0.4 GB of weights in float32; a checkpoint with optimiser is larger",
        verified="nnssl's source and the repository's adaptation_plan.json; on made-up checkpoints of its keys",
    )


KNOWN: dict[str, Known] = {
    known.name: known
    for known in (
        _openmind("mae", "MIC-DKFZ/ResEncL-OpenMind-MAE", "masked autoencoding"),
        _openmind("voco", "MIC-DKFZ/ResEncL-OpenMind-VoCo", "volume contrast (VoCo)"),
        _openmind("simclr", "AnonRes/ResEncL-OpenMind-SimCLR", "SimCLR"),
        _openmind("volume-fusion", "AnonRes/ResEncL-OpenMind-VF", "Volume Fusion"),
        _openmind("swinunetr", "AnonRes/ResEncL-OpenMind-SwinUNETR", "SwinUNETR's three tasks"),
        Known(
            name="medicalnet-50",
            spec="medicalnet:TencentMedicalNet/MedicalNet-Resnet50",
            what="3D ResNet-50 by segmentation of 23 data sets",
            data="23 public sets of CT and MRI with masks",
            licence="MIT",
            size="about 0.2 GB",
            verified="MedicalNet's source; on made-up checkpoints of its keys",
        ),
        *(
            Known(
                name=f"dinov2-{size}",
                spec=f"dinov2:facebook/dinov2-{size}",
                what=f"ViT-{size[0].upper()}/14 by DINOv2, slice by slice",
                data="LVD-142M, photographs",
                licence="Apache-2.0",
                size=bytes_,
                verified="transformers' layout; on made-up checkpoints of its keys",
            )
            for size, bytes_ in (("small", "0.09 GB"), ("base", "0.35 GB"), ("large", "1.2 GB"))
        ),
    )
}


def spelled_out(spec: str) -> str:
    """What a short name stands for; anything else as it is."""
    return KNOWN[spec].spec if spec in KNOWN else spec


def describe_known(name: str) -> Iterator[str]:
    """What a short name stands for, licence, data, size, and where the layout was verified."""
    known = KNOWN[name]
    yield f"{known.name}: {known.what}"
    yield f"is: {known.spec}, fetched from the Hugging Face Hub when first used"
    yield f"licence: {known.licence}; {known.size}"
    yield f"data: {known.data}"
    yield f"layout: from {known.verified}"
