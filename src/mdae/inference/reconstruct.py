"""`mdae reconstruct`: corrupt a scan as wanted, restore it, and write what a person wants to look at."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mdae.corruption import Corrupted, apply, draw
from mdae.data.catalogue import ScanEntry
from mdae.data.io import read_scan, write_nifti
from mdae.data.preprocess import (
    PreparedRecord,
    PreparedScan,
    denormalise,
    to_native,
    to_prepared,
)
from mdae.data.workers import prepare_entry
from mdae.errors import ConfigError, DataError, ModelError
from mdae.evaluation.configs import ReconstructConfig
from mdae.evaluation.features.encoder import resolve_device
from mdae.evaluation.features.sliding_window import map_windows
from mdae.figures import save_png, volume_grid
from mdae.files import atomic_write
from mdae.networks.saved import SavedModel, load_model
from mdae.objectives.denoising import DenoisingConfig, noised_voxels
from mdae.objectives.precondition import network_input, prediction_from
from mdae.objectives.settings import rebuilt
from mdae.seeding import torch_generator

PEAK = 8.0  # standard deviations, the range that PSNR takes a z-scored volume to have


@dataclass(frozen=True)
class Reconstruction:
    """Volumes (D, H, W), float32 z-scores on the prepared grid; `mask` is bool, True = masked.

    Attributes:
        corrupted: what the network saw.
        restored: what it made of it.
        inpainted: clean where visible, restored where masked.
        denoised: restored where visible, left out (0) where masked.
    """

    clean: np.ndarray
    corrupted: np.ndarray
    restored: np.ndarray
    inpainted: np.ndarray
    denoised: np.ndarray
    mask: np.ndarray
    sigma: float

    def volumes(self) -> dict[str, np.ndarray]:
        """The volumes by name."""
        names = ("clean", "corrupted", "inpainted", "denoised", "restored")
        return {name: getattr(self, name) for name in names}

    def errors(self) -> dict[str, float | None]:
        """Mean squared error and PSNR of the restored volume, over masked and over visible voxels."""
        square = (self.restored - self.clean) ** 2
        out: dict[str, float | None] = {}
        for name, region in (("masked", self.mask), ("visible", ~self.mask)):
            mse = float(square[region].mean()) if region.any() else None
            out[f"mse_{name}"] = mse
            out[f"psnr_{name}"] = 10 * math.log10(PEAK**2 / mse) if mse else None
        return out


def reconstruct(config: ReconstructConfig) -> Reconstruction:
    """Restore a corrupted scan and write NIfTI files, `picture.png` and `reconstruction.json` into `config.out`.

    Raises:
        ModelError, ScanError: a model or scan that does not do.
        DataError: a mask on another grid.
    """
    model = load_model(config.model, device=resolve_device(config.device))
    prepared = prepare_entry(ScanEntry("", "", "", "", config.scan), model.contract)
    mask = None if config.mask is None else _own_mask(config, prepared)
    result = restore(model, prepared.data, config.mask_ratio, config.t, config.seed, mask=mask)
    for name, volume in result.volumes().items():
        _write(config, name, volume, prepared)
    _write(config, "mask", result.mask.astype(np.float32), prepared)
    save_png(config.out / "picture.png", volume_grid([result.volumes()]))
    about = {
        "scan": str(config.scan),
        "mask": "random blocks" if config.mask is None else str(config.mask),
        "masked_share": float(result.mask.mean()),
        "t": config.t,
        "sigma": result.sigma,
        "seed": config.seed,
        "space": config.space,
        "window": list(model.patch),  # voxels; windows of the training patch, half overlapping and blended
        **result.errors(),
    }
    with atomic_write(config.out / "reconstruction.json") as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n")
    return result


@torch.inference_mode()
def restore(
    model: SavedModel,
    volume: np.ndarray,
    mask_ratio: float,
    t: float,
    seed: int,
    *,
    mask: np.ndarray | None = None,
) -> Reconstruction:
    """Corrupt a prepared volume (D, H, W) once, and restore it by overlapping windows of the training patch.

    Args:
        model: as loaded.
        volume: z-scores.
        mask_ratio: share of masked blocks.
        t: time in [0, 1]; a model trained without noise ignores it.
        seed: of mask and noise.
        mask: voxels to mask instead of random blocks, (D, H, W) bool.

    Raises:
        ConfigError: a model of several contrasts.
        ModelError: a model whose objective corrupts nothing.
    """
    if model.network.in_channels != 1:
        raise ConfigError(
            f"a model of {model.network.in_channels} contrasts cannot restore single scans",
            mend="use a model of one contrast",
        )
    device = next(model.network.parameters()).device
    objective = denoising_of(model)
    corruption = replace(objective.corruption, p_min=mask_ratio, p_max=mask_ratio, t_min=t, t_max=t)
    clean = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None].to(device)
    shape = (1, clean.shape[2], clean.shape[3], clean.shape[4])
    drawn = draw(corruption, shape, [torch_generator(seed, "reconstruct", device=device)])
    if mask is not None:  # a voxel mask is a block mask of blocks of one voxel
        corruption = replace(corruption, block=(1, 1, 1), edges=(), per_channel=False, foreground=False)
        drawn = replace(drawn, blocks=torch.from_numpy(mask)[None, None].to(device))
    corrupted = apply(corruption, clean, drawn)
    restored = _restored(model, objective, corrupted)
    x0, x, masked = (value[0, 0].cpu().numpy() for value in (clean, corrupted.input, corrupted.mask))
    seen = restored.cpu().numpy()
    return Reconstruction(
        clean=x0,
        corrupted=x,
        restored=seen,
        inpainted=np.where(masked, seen, x0),
        denoised=np.where(masked, np.float32(0), seen),
        mask=masked,
        sigma=float(corrupted.coefficients.sigma[0]),
    )


def _restored(model: SavedModel, objective: DenoisingConfig, corrupted: Corrupted) -> Tensor:
    """What the network makes of a corrupted volume, (D, H, W), window by window."""
    noised = noised_voxels(objective.corruption, corrupted.mask)
    seen, coefficients = corrupted.input, corrupted.coefficients
    given = network_input(seen, noised, coefficients) if objective.precondition else seen
    output = map_windows(
        lambda windows: model.network(
            windows, corrupted.t.expand(len(windows)) if objective.conditioned else None
        ),
        given[0, 0],
        model.patch,
        value=0.0,  # as if masked: nothing is known out there
    )[0]
    if objective.precondition:
        output = prediction_from(output[None, None].to(seen), seen, noised, coefficients)[0, 0]
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


def _own_mask(config: ReconstructConfig, prepared: PreparedScan) -> np.ndarray:
    """The user's mask on the prepared grid, by nearest neighbour."""
    assert config.mask is not None
    scan = read_scan(config.mask)
    record = prepared.record
    if scan.data.shape != record.source_shape or not np.allclose(
        scan.affine, np.array(record.source_affine), atol=1e-2
    ):
        raise DataError(
            f"a mask of {scan.data.shape} voxels on another grid than the scan's {record.source_shape}",
            where=config.mask,
            mend="resample it to the scan",
        )
    mask = to_prepared(scan.data != 0, record, order=0) > 0.5
    if not mask.any():
        raise DataError("a mask of nothing within the head", where=config.mask, mend="mark voxels to inpaint")
    return mask


def _write(config: ReconstructConfig, name: str, volume: np.ndarray, prepared: PreparedScan) -> None:
    """One volume as NIfTI, in the wanted space."""
    path = config.out / f"{name}.nii.gz"
    if config.space == "prepared":
        write_nifti(path, volume.astype(np.float32), prepared.affine)
    else:
        write_nifti(path, _native(name, volume, prepared.record), np.array(prepared.record.source_affine))


def _native(name: str, volume: np.ndarray, record: PreparedRecord) -> np.ndarray:
    """On the source's voxels and in its intensities; a mask stays a mask."""
    if name == "mask":
        return to_native(volume, record, order=0).astype(np.uint8)
    intensities = denormalise(volume, record)
    return to_native(intensities, record, fill=record.background * record.std + record.mean)
