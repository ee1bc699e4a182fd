"""Seconds a scan: embedding, and segmenting a 1 mm head against nnU-Net's own predictor with the same network.

    python -m benchmarks.predict [--network tiny] [--model MODEL] [--heads 2] [--rounds 1]

Made-up FLAIR heads at 1 mm with lesions. Both predictors run one network with the same weights, whose head is a readout
of its last map learned from four heads; so what differs is how a head is gone through: ours with windows that overlap
by a quarter, blended once; nnU-Net's by halves, each window and its seven mirror images, and, beside it, without these.
Dice is of the heads that were not learned from, on the prepared voxels. Embedding is from the raw file.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from benchmarks.common import in_turn, median_ratio, save, show
from benchmarks.step import peer_network
from mdae.data.label_file import read_label_map
from mdae.data.synth import SynthConfig, synthesise
from mdae.devices import keep_freed_memory
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.features.extractors import own_model
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.evaluation.segment.fitted import network_of, voxel_features
from mdae.evaluation.segment.network import SegmentationNetwork
from mdae.evaluation.segment.segmenter import draw_points
from mdae.evaluation.segment.volumes import LabelledVolume, labelled
from mdae.evaluation.segment.windows import scores_of
from mdae.evaluation.statistics.overlap import dice
from mdae.evaluation.voxel_probe.regression import Readout, fit_readout
from mdae.networks.saved import SavedModel

LEARNED = 4
OPTIONS = FewLabelOptions(steps=0, context=False)


def heads(folder: Path, encoder: Encoder, number: int) -> tuple[list[LabelledVolume], Path]:
    """Prepared heads with their lesions, and the first raw file."""
    cohort = synthesise(
        SynthConfig(out=folder, subjects=number, contrasts=("FLAIR",), lesion_fraction=1.0, spacing_mm=1.0)
    )
    found = []
    scans = sorted(cohort.glob("sub-*/anat/*_FLAIR.nii.gz"))
    for scan in scans:
        name = scan.parts[-3]
        mask, _ = read_label_map(
            cohort / "derivatives" / "lesions" / name / "anat" / f"{name}_label-lesion_mask.nii.gz"
        )
        found.append(labelled(name, encoder.prepare(scan), mask))
    return found, scans[-1]


def readout_of_the_last_map(model: SavedModel, learned: list[LabelledVolume]) -> SegmentationNetwork:
    """The network whose head reads its last map alone, as nnU-Net's does."""
    features = voxel_features(model, False, "cpu")
    assert features.encoder is not None
    width, total = features.encoder.widths[-1], features.num_encoder
    points = [
        replace(own, features=own.features[:, -width:])
        for own in draw_points(learned, features, OPTIONS.points, seed=0)
    ]
    last = fit_readout(points, 2)
    weights = np.zeros((2, total))
    weights[:, -width:] = last.weights
    return network_of(model, features, Readout(weights, last.biases, np.ones(total)), 1, "cpu")


def nnunet_predictor(model: SavedModel, ours: SegmentationNetwork, *, mirror: bool) -> nnUNetPredictor:
    """nnU-Net's predictor with the same weights and window."""
    peer = peer_network(model.network.config, num_classes=2)
    state = {f"encoder.{name}": value for name, value in ours.maps.encoder.state_dict().items()}
    state |= {f"decoder.{name}": value for name, value in ours.maps.decoder.state_dict().items()}
    missing, unknown = peer.load_state_dict(state, strict=False)
    assert not unknown and all(
        "seg_layers" in n or "all_modules" in n or "decoder.encoder" in n for n in missing
    )
    with torch.no_grad():
        head = peer.decoder.seg_layers[-1]
        width = head.weight.shape[1]
        head.weight.copy_(ours.weight[:, -width:, None, None, None])
        head.bias.copy_(ours.bias)
    predictor = nnUNetPredictor(
        use_mirroring=mirror, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.network, predictor.allowed_mirroring_axes = peer.eval(), (0, 1, 2)
    predictor.configuration_manager = SimpleNamespace(patch_size=list(model.patch))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=2)
    return predictor


def called_by_nnunet(predictor: nnUNetPredictor, own: LabelledVolume) -> np.ndarray:
    """The labels (D, H, W) that it gives a prepared head."""
    logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(own.volume.data))
    return np.asarray(logits.argmax(0).numpy())


def dice_of(said: list[np.ndarray], tested: list[LabelledVolume]) -> float:
    """The mean over heads."""
    return float(np.mean([dice(one == 1, own.labels == 1) for one, own in zip(said, tested, strict=True)]))


def main() -> None:
    """Time both in turn and record what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="tiny")
    parser.add_argument("--model", default="", help="a model folder instead of an untrained network")
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    keep_freed_memory()
    model, name, _ = own_model(options.model or f"untrained:{options.network}")
    encoder = Encoder(model)
    with tempfile.TemporaryDirectory() as folder:
        found, raw = heads(Path(folder) / "heads", encoder, LEARNED + options.heads)
        network = readout_of_the_last_map(model, found[:LEARNED])
        tested = found[LEARNED:]
        mirrored, plain = (nnunet_predictor(model, network, mirror=mirror) for mirror in (True, False))
        ways: dict[str, Callable[[LabelledVolume], np.ndarray]] = {
            "ours": lambda own: scores_of(network, own.volume, OPTIONS).argmax(0),
            "nnU-Net": lambda own: called_by_nnunet(mirrored, own),
            "nnU-Net, not mirrored": lambda own: called_by_nnunet(plain, own),
        }
        said: dict[str, list[np.ndarray]] = {}

        def all_heads(way: str) -> None:
            said[way] = [ways[way](own) for own in tested]

        jobs = {way: partial(all_heads, way) for way in ways}
        seconds = in_turn({**jobs, "embed": lambda: encoder.embed(raw)}, rounds=options.rounds, warmup=0)
        rows = [
            {
                "network": name,
                "patch": model.patch[0],
                "voxels": "x".join(map(str, tested[0].volume.shape)),
                "way": way,
                "seconds": float(np.median(seconds[way])) / (len(tested) if way in ways else 1),
                "by ours": median_ratio(seconds["ours"], seconds[way]) if way in ways else float("nan"),
                "dice": dice_of(said[way], tested) if way in ways else float("nan"),
            }
            for way in seconds
        ]
    show(rows)
    save(f"predict-{name}", rows)


if __name__ == "__main__":
    main()
