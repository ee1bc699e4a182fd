"""A prepared volume corrupted as wanted, and what a model restores of it, channel by channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mdae.corruption import Corrupted, CorruptionConfig, apply, draw
from mdae.errors import ConfigError, ModelError
from mdae.evaluation.features.sliding_window import as_channels, map_windows
from mdae.networks.saved import SavedModel
from mdae.objectives.denoising import DenoisingConfig, noised_voxels, run
from mdae.objectives.precondition import network_input, prediction_from
from mdae.objectives.settings import rebuilt
from mdae.seeding import torch_generator

PEAK = 8.0  # standard deviations, the range that PSNR takes a z-scored volume to have


@dataclass(frozen=True)
class Reconstruction:
    """Volumes (D, H, W) of one contrast, float32 z-scores on the prepared grid; `mask` is bool, True = masked.

    Attributes:
        corrupted: what the network saw.
        restored: what it made of it.
        inpainted: clean where visible, restored where masked.
        denoised: restored where visible, left out (0) where masked.
        known: whether there is a clean volume, which is 0 else.
        contrast: its name; "" of a model of single scans.
    """

    clean: np.ndarray
    corrupted: np.ndarray
    restored: np.ndarray
    inpainted: np.ndarray
    denoised: np.ndarray
    mask: np.ndarray
    sigma: float
    known: bool = True
    contrast: str = ""

    def volumes(self) -> dict[str, np.ndarray]:
        """The volumes by name."""
        names = ("clean", "corrupted", "inpainted", "denoised", "restored")
        return {name: getattr(self, name) for name in names}

    def errors(self) -> dict[str, float | None]:
        """Mean squared error and PSNR of the restored volume, over masked and over visible voxels."""
        square = (self.restored - self.clean) ** 2
        out: dict[str, float | None] = {}
        for name, region in (("masked", self.mask), ("visible", ~self.mask)):
            mse = float(square[region].mean()) if self.known and region.any() else None
            out[f"mse_{name}"] = mse
            out[f"psnr_{name}"] = 10 * math.log10(PEAK**2 / mse) if mse else None
        return out


def restore(
    model: SavedModel,
    volume: np.ndarray,
    mask_ratio: float,
    t: float,
    seed: int,
    *,
    mask: np.ndarray | None = None,
) -> Reconstruction:
    """Corrupt a prepared volume (D, H, W) once, and restore it; arguments as for `restore_channels`."""
    return restore_channels(model, volume, mask_ratio, t, seed, mask=mask)[0]


@torch.inference_mode()
def restore_channels(
    model: SavedModel,
    volume: np.ndarray,
    mask_ratio: float,
    t: float,
    seed: int,
    *,
    mask: np.ndarray | None = None,
    hidden: Sequence[bool] = (),
    known: Sequence[bool] = (),
) -> list[Reconstruction]:
    """Corrupt a prepared volume once, and restore it by overlapping windows of the training patch.

    Args:
        model: as loaded.
        volume: z-scores, (D, H, W), or (C, D, H, W) for a model of several contrasts.
        mask_ratio: share of masked blocks.
        t: time in [0, 1]; a model trained without noise ignores it.
        seed: of mask and noise.
        mask: voxels to mask instead of random blocks, (D, H, W) bool.
        hidden: for each contrast whether it is masked whole; none by default.
        known: for each whether there is any; one that is lacking is masked whole. All by default.

    Returns:
        One for each contrast.

    Raises:
        ConfigError: another number of contrasts than the model's.
        ModelError: a model whose objective corrupts nothing.
    """
    device = next(model.network.parameters()).device
    objective = denoising_of(model)
    corruption = replace(
        objective.corruption, p_min=mask_ratio, p_max=mask_ratio, t_min=t, t_max=t, drop_channel=0.0
    )
    clean = as_channels(volume)[None].to(device)
    channels = clean.shape[1]
    if channels != model.network.in_channels:
        raise ConfigError(
            f"{channels} contrasts for a model of {model.network.in_channels}",
            mend="give it as many as it was trained on, in their order",
        )
    there = list(known) or [True] * channels
    gone = torch.tensor([not k or h for k, h in zip(there, hidden or [False] * channels, strict=True)])
    corrupted = _corrupted(corruption, clean, seed, mask, gone.to(device))
    restored = _restored(model, objective, corrupted).cpu().numpy()
    x0, x, masked = (value[0].cpu().numpy() for value in (clean, corrupted.input, corrupted.mask))
    sigma = float(corrupted.coefficients.sigma[0])
    return [
        Reconstruction(
            clean=x0[c],
            corrupted=x[c],
            restored=restored[c],
            inpainted=np.where(masked[c], restored[c], x0[c]),
            denoised=np.where(masked[c], np.float32(0), restored[c]),
            mask=masked[c],
            sigma=sigma,
            known=there[c],
            contrast=model.channels[c] if model.channels else "",
        )
        for c in range(channels)
    ]


def _corrupted(
    corruption: CorruptionConfig, clean: Tensor, seed: int, mask: np.ndarray | None, gone: Tensor
) -> Corrupted:
    """The batch of one, with a mask of every channel; `gone`, (C,), are masked whole."""
    device = clean.device
    shape = (clean.shape[1], clean.shape[2], clean.shape[3], clean.shape[4])
    drawn = draw(corruption, shape, [torch_generator(seed, "reconstruct", device=device)])
    if mask is not None:  # a voxel mask is a block mask of blocks of one voxel
        corruption = replace(corruption, block=(1, 1, 1), edges=(), per_channel=False, foreground=False)
        drawn = replace(drawn, blocks=torch.from_numpy(mask)[None, None].to(device))
    corrupted = apply(corruption, clean, drawn)
    where = gone[None, :, None, None, None]
    return replace(
        corrupted,
        input=corrupted.input.masked_fill(where, 0.0),
        mask=corrupted.mask.expand(clean.shape) | where,
        gone=where,
    )


def _restored(model: SavedModel, objective: DenoisingConfig, corrupted: Corrupted) -> Tensor:
    """What the network makes of a corrupted volume, (C, D, H, W), window by window."""
    noised = noised_voxels(objective.corruption, corrupted)
    seen, coefficients = corrupted.input, corrupted.coefficients
    given = network_input(seen, noised, coefficients) if objective.precondition else seen
    t = corrupted.t if objective.conditioned else None
    output = map_windows(
        lambda windows: run(
            model.network,
            windows,
            None if t is None else t.expand(len(windows)),
            drop_hidden=objective.drop_hidden,
        ),
        given[0],
        model.patch,
        value=0.0,  # as if masked: nothing is known out there
    )
    if objective.precondition:
        output = prediction_from(output[None].to(seen), seen, noised, coefficients)[0]
    return output


def denoising_of(model: SavedModel) -> DenoisingConfig:
    """The settings of the denoising family that a model was trained with.

    Raises:
        ModelError: its objective is of another kind and corrupts nothing that could be undone.
    """
    record = {name: value for name, value in model.objective.items() if name != "name"}
    try:
        return rebuilt(DenoisingConfig, record)
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        raise ModelError(
            f"objective {model.objective.get('name', 'unknown')} leaves no corruption to undo",
            mend="use a model of mdae, mae, dsm or diffmae",
        ) from error
