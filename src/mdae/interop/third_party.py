"""The registry of third-party encoders: other people's pre-trained networks, each with its own published preprocessing.

Importing it costs nothing; what an encoder needs is imported when it is opened.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mdae.errors import ConfigError, ModelError
from mdae.interop.exposure import UNDERGONE, describe_exposure

if TYPE_CHECKING:
    from mdae.interop.backbone import Backbone

logger = logging.getLogger(__name__)

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # owner/name


@dataclass(frozen=True, kw_only=True)
class ThirdParty:
    """One kind of other people's encoders.

    Attributes:
        name: the KIND of `KIND:PATH`.
        title: what it is, for tables.
        paper: where it was published.
        licence: of the weights.
        preprocessing: in words.
        hub: its repository on the Hugging Face Hub; "" if none is known for certain.
        files: what is fetched from a repository there: the weights, then what has to lie beside them.
        load: from the file or folder of a checkpoint and a name for tables.
    """

    name: str
    title: str
    paper: str
    licence: str
    preprocessing: str
    hub: str
    files: tuple[str, ...]
    load: Callable[[Path, str], Backbone]


def _nnssl(path: Path, name: str) -> Backbone:
    from mdae.interop.nnssl import load_nnssl

    return load_nnssl(path, name)


def _medicalnet(path: Path, name: str) -> Backbone:
    from mdae.interop.medicalnet import load_medicalnet

    return load_medicalnet(path, name)


def _brainiac(path: Path, name: str) -> Backbone:
    from mdae.interop.brainiac import load_brainiac

    return load_brainiac(path, name)


def _dinov2(path: Path, name: str) -> Backbone:
    from mdae.interop.dinov2 import load_dinov2

    return load_dinov2(path, name)


def _mri_core(path: Path, name: str) -> Backbone:
    from mdae.interop.mri_core import load_mri_core

    return load_mri_core(path, name)


def _brainmvp(path: Path, name: str) -> Backbone:
    from mdae.interop.brainmvp import load_brainmvp

    return load_brainmvp(path, name)


THIRD_PARTY: dict[str, ThirdParty] = {
    kind.name: kind
    for kind in (
        ThirdParty(
            name="nnssl",
            title="ResEnc-L encoders of nnssl and OpenMind (MAE, SimCLR, VoCo, Models Genesis, S3D, ...)",
            paper="Wald et al., An OpenMind for 3D medical vision self-supervised learning, ICCV 2025",
            licence="CC BY 4.0 (weights of OpenMind)",
            preprocessing="cropped to what is not 0, z-scored, 1 mm; the middle 160^3, in the file's orientation",
            hub="MIC-DKFZ/ResEncL-OpenMind-MAE",
            files=("checkpoint_final.pth", "adaptation_plan.json"),
            load=_nnssl,
        ),
        ThirdParty(
            name="medicalnet",
            title="MedicalNet, ResNet-50 pre-trained on the segmentation of 23 data sets",
            paper="Chen et al., Med3D: Transfer learning for 3D medical image analysis, arXiv:1904.00625",
            licence="MIT",
            preprocessing="resized to 56 x 448 x 448, z-scored by the voxels above 0, noise where there is nothing",
            hub="TencentMedicalNet/MedicalNet-Resnet50",
            files=("resnet_50_23dataset.pth",),
            load=_medicalnet,
        ),
        ThirdParty(
            name="brainiac",
            title="BrainIAC, ViT-B (or ResNet-50, the first release) by SimCLR on 32,015 brain MRI",
            paper="Tak et al., A generalizable foundation model for analysis of human brain MRI, Nat. Neurosci. 2026",
            licence="non-commercial academic research only",
            preprocessing="skull-stripped scans, resized to 96^3 and z-scored by the voxels that are not 0",
            hub="",
            files=("BrainIAC.ckpt",),
            load=_brainiac,
        ),
        ThirdParty(
            name="dinov2",
            title="DINOv2 ViT-S, ViT-B or ViT-L, pre-trained on photographs; with or without registers",
            paper="Oquab et al., DINOv2: Learning robust visual features without supervision, TMLR 2024",
            licence="Apache-2.0",
            preprocessing="32 axial slices over the head, 224 pixels a side, grey by percentiles, colours of ImageNet",
            hub="facebook/dinov2-base",
            files=("model.safetensors",),
            load=_dinov2,
        ),
        ThirdParty(
            name="mri-core",
            title="MRI-CORE, ViT-B pre-trained as DINOv2 on 6 million slices of MRI",
            paper="Dong et al., MRI-CORE: A foundation model for magnetic resonance imaging, arXiv:2506.12186",
            licence="Apache-2.0",
            preprocessing="32 axial slices over the head, 224 pixels a side, each from its least to its greatest value",
            hub="",
            files=("MRI_CORE_vitb.pth",),
            load=_mri_core,
        ),
        ThirdParty(
            name="brainmvp",
            title="BrainMVP, UniFormer or U-Net pre-trained on 16,022 brain MRI of eight contrasts",
            paper="Rui et al., Multi-modal vision pre-training for medical image analysis, CVPR 2025",
            licence="none given",
            preprocessing="1 mm, percentiles 5 and 95 to [0, 1], resized to 128 x 128 x 64, the middle 96 x 96 x 64",
            hub="",
            files=("BrainMVP_uniformer.pt",),
            load=_brainmvp,
        ),
    )
}


def describe_third_party(name: str) -> Iterator[str]:
    """What a kind is, how scans are prepared for it and where its weights are, and which data sets it has seen."""
    kind = THIRD_PARTY[name]
    yield f"{kind.name}:PATH: {kind.title}"
    yield f"paper: {kind.paper}"
    yield f"scans: {kind.preprocessing}"
    place = f"; on the Hugging Face Hub as {kind.name}:{kind.hub}" if kind.hub else ""
    yield f"weights: {' and '.join(kind.files)}; licence: {kind.licence}{place}"
    yield from describe_exposure(f"{kind.name}:{kind.hub}")


def open_third_party(spec: str) -> Backbone:
    """Open somebody's encoder.

    Args:
        spec: `KIND:PATH` of a checkpoint's file or folder, or `KIND:OWNER/REPO` of the Hugging Face Hub where no such
            path exists. Nothing is fetched otherwise.

    Raises:
        ConfigError: no such kind.
        ModelError: no such file or repository, or one of another layout.
    """
    kind, _, place = spec.partition(":")
    if kind not in THIRD_PARTY:
        raise ConfigError(
            f"no kind of encoder {kind!r}", mend=f"write KIND:PATH, KIND of {', '.join(THIRD_PARTY)}"
        )
    known = THIRD_PARTY[kind]
    if kind in UNDERGONE:
        logger.warning("%s: %s", spec, UNDERGONE[kind])
    hint = f"write {kind}:PATH" + (f" or {kind}:{known.hub}" if known.hub else "")
    if not place:
        raise ConfigError(f"{kind} without a checkpoint", mend=hint)
    path = Path(place).expanduser()
    if path.exists():
        return known.load(path, f"{kind}:{_label(path)}")
    if not HUB_NAME.fullmatch(place):
        raise ModelError("no such file or folder", where=path, mend=hint)
    return known.load(_from_hub(place, known), f"{kind}:{place.partition('/')[2]}")


def _label(path: Path) -> str:
    """A folder's name, or a file's; a file named for what every run writes, like its folder."""
    path = path.absolute()
    if path.is_dir():
        return path.name
    return path.parent.name if path.name.startswith("checkpoint") else path.stem


def _from_hub(repository: str, known: ThirdParty) -> Path:
    """The file of the weights, fetched or from the cache, with what has to lie beside it."""
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    mend = f"give a file, or a repository with {' and '.join(known.files)}"
    if not known.files:
        raise ModelError(
            "its place on the Hub is not known", where=repository, mend="download it, give its file"
        )
    try:
        fetched = [Path(hf_hub_download(repository, name)) for name in known.files]
    except LocalEntryNotFoundError as error:
        raise ModelError(
            "no such file or folder, and the Hugging Face Hub cannot be reached", where=repository, mend=mend
        ) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"not to be had from the Hugging Face Hub ({reason})", where=repository, mend=mend
        ) from error
    return fetched[0]
