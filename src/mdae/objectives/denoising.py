"""The family of MDAE, MAE, DSM and DiffMAE: four settings of one objective, equations (1) to (9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mdae.corruption import Corrupted, CorruptionConfig, apply, draw
from mdae.errors import ConfigError
from mdae.networks import Network, SparseNetwork
from mdae.objectives.base import Objective, StepOutput
from mdae.objectives.detail import gradient_term
from mdae.objectives.precondition import network_input, prediction_from
from mdae.objectives.weighting import visible_weight
from mdae.tensors import Batch, Mask, PerSample
from mdae.types import Weighting


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig:
    """One member of the family.

    Args:
        corruption: what is done to the volume.
        supervise: which voxels the loss is taken on.
        weighting, w_max: the weight of the visible term by noise level (8).
        lambda_masked, lambda_visible: the weights of the two terms (9).
        lambda_gradient: the weight of a third, the error of the volume's gradient on the supervised voxels; 0 for none.
        precondition: scale input and output of the network by noise level, as in EDM.
        conditioned: whether the network is told the time; if not, FiLM is left out.
        drop_hidden: the encoder computes from visible voxels alone instead of seeing 0 in the masked ones; for networks
            that can. A transformer leaves out the tokens that are masked whole, and is faster by as much.
    """

    corruption: CorruptionConfig
    supervise: Literal["both", "masked", "visible"] = "both"
    weighting: Weighting = "inverse_error"
    w_max: float = 5.0
    lambda_masked: float = 1.0
    lambda_visible: float = 1.0
    lambda_gradient: float = 0.0
    precondition: bool = False
    conditioned: bool = True
    drop_hidden: bool = False

    def __post_init__(self) -> None:
        if self.supervise not in ("both", "masked", "visible"):
            raise ConfigError(f"supervise is {self.supervise!r}", mend="use both, masked or visible")
        if self.weighting not in ("inverse_error", "uniform", "min_snr"):
            raise ConfigError(
                f"unknown weighting {self.weighting!r}", mend="use inverse_error, uniform or min_snr"
            )
        if min(self.lambda_masked, self.lambda_visible, self.lambda_gradient) < 0 or self.w_max <= 0:
            raise ConfigError(
                "a negative lambda or a w_max that is not above 0", mend="give positive weights"
            )
        if self.drop_hidden and (self.corruption.noise_on == "masked" or self.corruption.fill == "noise"):
            raise ConfigError("masked voxels that hold noise are not hidden", mend="leave drop_hidden out")


@dataclass(frozen=True)
class Terms:
    """The two terms of each sample, (B,); 0 where a sample has no such voxel, `has_*` says which it has."""

    masked: Tensor
    visible: Tensor
    has_masked: Tensor
    has_visible: Tensor


class Denoising(Objective):
    """Reconstruct the clean volume from a corrupted one; masked and visible voxels count on their own."""

    def __init__(self, network: Network, config: DenoisingConfig) -> None:
        super().__init__(network)
        self.config = config
        if config.drop_hidden and not isinstance(network, SparseNetwork):
            raise ConfigError(
                f"drop_hidden: {type(network).__name__} cannot compute from visible voxels alone",
                mend="leave it out, or use a network with sparse_stages",
            )
        if not config.conditioned:
            network.freeze_time()

    def forward(
        self, clean: Batch, generators: Sequence[torch.Generator], known: Mask | None = None
    ) -> StepOutput:
        """Draw, corrupt, predict, compare; unknown voxels are hidden and enter no term."""
        config = self.config
        with torch.no_grad():
            shape = (clean.shape[1], clean.shape[2], clean.shape[3], clean.shape[4])
            drawn = draw(config.corruption, shape, generators)
            corrupted = apply(config.corruption, clean, drawn, known)
            seen = corrupted.input if known is None else corrupted.input.masked_fill(~known, 0.0)
        prediction = self._predict(corrupted, seen, known)
        counted = _both(known, corrupted.taught)
        terms = squared_error_terms(prediction, clean, corrupted.mask, counted)
        weight = visible_weight(corrupted.coefficients, config.weighting, config.w_max)
        if config.supervise == "masked":
            loss = config.lambda_masked * terms.masked
        elif config.supervise == "visible":
            loss = config.lambda_visible * weight * terms.visible
        else:
            loss = config.lambda_masked * terms.masked + config.lambda_visible * weight * terms.visible  # (9)
        logs = {
            "masked": _mean_where(terms.masked, terms.has_masked & (config.supervise != "visible")),
            "visible": _mean_where(
                terms.visible, terms.has_visible & (weight > 0) & (config.supervise != "masked")
            ),
        }
        if config.lambda_gradient:
            gradient = gradient_term(prediction, clean, self._supervised(corrupted.mask, counted))
            loss = loss + config.lambda_gradient * gradient
            logs["gradient"] = gradient.detach().mean()
        pictures = {}
        if not self.training:
            pictures = {"clean": clean, "corrupted": seen, "reconstructed": prediction.detach()}
        return StepOutput(loss.mean(), logs, pictures)

    def _predict(self, corrupted: Corrupted, seen: Batch, known: Mask | None) -> Tensor:
        """X^ from what is seen (5), preconditioned if that is wanted."""
        t = corrupted.t if self.config.conditioned else None
        if not self.config.precondition:
            return run(self.network, seen, t, drop_hidden=self.config.drop_hidden)
        noised = noised_voxels(self.config.corruption, corrupted)
        if known is not None:
            noised = noised & known
        given = network_input(seen, noised, corrupted.coefficients)
        output = run(self.network, given, t, drop_hidden=self.config.drop_hidden)
        return prediction_from(output, seen, noised, corrupted.coefficients)

    def _supervised(self, mask: Mask, counted: Mask | None) -> Mask | None:
        """The voxels that the loss is taken on; None for all."""
        if self.config.supervise == "both":
            return counted
        return _both(mask if self.config.supervise == "masked" else ~mask, counted)


def run(network: Network, x: Batch, t: PerSample | None, *, drop_hidden: bool) -> Batch:
    """The network on a corrupted volume; with `drop_hidden` from the voxels alone that are not 0 in every channel."""
    if drop_hidden:
        assert isinstance(network, SparseNetwork)
        stages = network.sparse_stages(x, (x != 0).any(dim=1, keepdim=True), t)
        return network.decode([stage.features for stage in stages], t)
    restored: Tensor = network(x, t)
    return restored


def noised_voxels(corruption: CorruptionConfig, corrupted: Corrupted) -> Mask:
    """Where the noise is; it alone tells of the volume there."""
    if corruption.noise_on == "visible":
        return ~corrupted.mask
    return corrupted.mask if corrupted.gone is None else corrupted.mask & ~corrupted.gone


def _both(one: Mask | None, other: Mask | None) -> Mask | None:
    """Voxels that both count; None counts all."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def squared_error_terms(
    prediction: Tensor, clean: Tensor, mask: Tensor, known: Tensor | None = None
) -> Terms:
    """The means (7) and, without its weight, (8) of the squared error, sample by sample.

    They are taken channel by channel, and then over the channels that have such voxels: each counts as much as any
    other, however much of it is masked.

    Args:
        prediction: X^, (B, C, D, H, W).
        clean: X0, the same shape.
        mask: True where masked, (B, 1 or C, D, H, W).
        known: voxels that count at all, likewise; None for all.
    """
    error = (prediction.float() - clean.float()).square()
    in_masked, in_visible = (mask, ~mask) if known is None else (mask & known, ~mask & known)
    masked, has_masked = _mean_by_channel(error, in_masked)  # (7)
    visible, has_visible = _mean_by_channel(error, in_visible)  # (8)
    return Terms(masked, visible, has_masked, has_visible)


def _mean_by_channel(error: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over the channels of each one's mean over a region, (B,), and whether there is any; 0 if not."""
    voxels = (2, 3, 4)
    number = region.sum(voxels)  # (B, 1 or C)
    each = error.masked_fill(~region, 0.0).sum(voxels) / number.clamp_min(1)
    channels = (number > 0).sum(1) * (error.shape[1] // region.shape[1])
    return each.sum(1) / channels.clamp_min(1), channels > 0


def _mean_where(values: Tensor, present: Tensor) -> Tensor:
    """The mean over the samples that have the term; NaN if none has."""
    return values.detach().masked_fill(~present, 0.0).sum() / present.sum()
