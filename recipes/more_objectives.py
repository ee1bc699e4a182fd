"""Two objectives for `mdae pretrain --plugin`: MDAE with a term that others found to help, one each.

- `mdae-spectral`: the mean absolute error of the volume's Fourier transform beside that of its voxels, as Cho et al.
  (Rethinking Coarse-to-Fine Approach in Single Image Deblurring, ICCV 2021) have it: sharp detail has to be right.
- `mdae-spread`: variance and covariance of pooled features over a batch, as in VICReg (Bardes et al., ICLR 2022): no
  feature may be the same for all, nor tell what another tells.

`recipes.few_labels` compares them with MDAE itself; neither is a part of the package unless it helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdae.corruption import Corrupted, CorruptionConfig
from mdae.objectives import Objective, ObjectiveSpec, StepOutput, register
from mdae.objectives.denoising import Denoising, DenoisingConfig
from mdae.tensors import Batch, Mask

WANTED_STD = 1.0  # of each feature over a batch
VARIANCE, COVARIANCE = 25.0, 1.0  # VICReg's weights, of which the first is taken as the unit


@dataclass(frozen=True, kw_only=True)
class SpectralConfig(DenoisingConfig):
    """MDAE's settings and the weight of the further term."""

    lambda_spectral: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SpreadConfig(DenoisingConfig):
    """MDAE's settings and the weight of the further term."""

    lambda_spread: float = 0.1


def spectral_term(prediction: Batch, clean: Batch) -> Tensor:
    """The mean absolute difference of two volumes' orthonormal Fourier transforms, over everything."""
    error = torch.fft.rfftn(prediction.float() - clean.float(), dim=(2, 3, 4), norm="ortho")
    return error.abs().mean()


def spread_term(features: Tensor) -> Tensor:
    """How far features (B, F) are from a spread of 1 each and from telling different things; VICReg's two terms."""
    centred = features.float() - features.float().mean(0)
    std = (centred.square().sum(0) / (len(features) - 1) + 1e-4).sqrt()
    covariance = centred.T @ centred / (len(features) - 1)
    apart = covariance - covariance.diag().diag()
    variance = (WANTED_STD - std).clamp_min(0).mean()
    return variance + COVARIANCE / VARIANCE * apart.square().sum() / features.shape[1]


class Spectral(Denoising):
    """The error's spectrum beside its voxels."""

    config: SpectralConfig

    def forward(
        self, clean: Batch, generators: Sequence[torch.Generator], known: Mask | None = None
    ) -> StepOutput:
        output = super().forward(clean, generators, known)
        term = spectral_term(self.prediction, clean)
        logs = {**output.logs, "spectral": term.detach()}
        return output._replace(loss=output.loss + self.config.lambda_spectral * term, logs=logs)

    def _predict(self, corrupted: Corrupted, seen: Batch, known: Mask | None) -> Tensor:
        self.prediction = super()._predict(corrupted, seen, known)
        return self.prediction


class Spread(Denoising):
    """Features of the corrupted volumes, the deepest stage's means, are kept apart."""

    config: SpreadConfig
    mixes_samples = True
    min_batch = 2

    def forward(
        self, clean: Batch, generators: Sequence[torch.Generator], known: Mask | None = None
    ) -> StepOutput:
        output = super().forward(clean, generators, known)
        term = spread_term(self.features)
        logs = {**output.logs, "spread": term.detach()}
        return output._replace(loss=output.loss + self.config.lambda_spread * term, logs=logs)

    def _predict(self, corrupted: Corrupted, seen: Batch, known: Mask | None) -> Tensor:
        stages = self.network.stages(seen, corrupted.t)
        self.features = stages[-1].mean(dim=(2, 3, 4))
        return self.network.decode(stages, corrupted.t)


def add(name: str, summary: str, settings: DenoisingConfig, kind: type[Objective]) -> None:
    """One more name for `--objective`."""
    register(
        name,
        ObjectiveSpec(
            paper="an experiment on MDAE, CVPR 2026", summary=summary, settings=settings, build=kind
        ),
    )


add("mdae-spectral", "MDAE and the error's spectrum", SpectralConfig(corruption=CorruptionConfig()), Spectral)
add("mdae-spread", "MDAE and features kept apart", SpreadConfig(corruption=CorruptionConfig()), Spread)
