"""`mdae reconstruct`: corrupt a scan as wanted, restore it, and write what a person wants to look at."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from mdae.data.catalogue import ScanEntry
from mdae.data.io import read_scan, write_nifti
from mdae.data.native import denormalise, to_native, to_prepared
from mdae.data.preprocess import PreparedRecord
from mdae.data.workers import prepare_entry
from mdae.errors import ConfigError, DataError
from mdae.evaluation.configs import ReconstructConfig
from mdae.evaluation.features.encoder import resolve_device
from mdae.evaluation.features.session import prepare_session
from mdae.figures import save_png, volume_grid
from mdae.files import atomic_write
from mdae.inference.restore import Reconstruction, restore_channels
from mdae.networks.saved import SavedModel, load_model


@dataclass(frozen=True)
class _Scans:
    """What is restored.

    Attributes:
        data: (C, D, H, W), z-scores.
        affine: (4, 4).
        records: of each contrast, None for one that is lacking.
        names: of the contrasts; one empty name for a model of single scans.
        grid: the record of the contrast whose grid all lie on.
        given: the record of the scan that was named first.
    """

    data: np.ndarray
    affine: np.ndarray
    records: tuple[PreparedRecord | None, ...]
    names: tuple[str, ...]
    grid: PreparedRecord
    given: PreparedRecord


def reconstruct(config: ReconstructConfig) -> list[Reconstruction]:
    """Restore a corrupted scan and write NIfTI files, `picture.png` and `reconstruction.json` into `config.out`.

    Returns:
        One for each of the model's channels, in order; a single one for a model of single scans.

    Raises:
        ModelError, ScanError: a model or scan that does not do.
        ConfigError: contrasts that are none of the model's.
        DataError: a mask on another grid.
    """
    model = load_model(config.model, device=resolve_device(config.device))
    scans = _prepared(config, model)
    mask = None if config.mask is None else _own_mask(config, scans.given)
    found = restore_channels(
        model,
        scans.data,
        config.mask_ratio,
        config.t,
        config.seed,
        mask=mask,
        hidden=[name in config.hide for name in scans.names],
        known=[record is not None for record in scans.records],
    )
    for name, result, record in zip(scans.names, found, scans.records, strict=True):
        for what, volume in (*result.volumes().items(), ("mask", result.mask)):
            _write(config, f"{what}_{name}" if name else what, volume, record, scans)
    save_png(config.out / "picture.png", volume_grid([result.volumes() for result in found]))
    _describe(config, model, found)
    return found


def _prepared(config: ReconstructConfig, model: SavedModel) -> _Scans:
    """The scans of the command, as the model's channels."""
    if not model.channels:
        if config.also or config.hide or config.contrast:
            raise ConfigError(
                "--also, --hide or --contrast for a model of single scans",
                where=config.model,
                mend="leave them out",
            )
        own = prepare_entry(ScanEntry("", "", "", "", config.scan), model.contract)
        return _Scans(own.data[None], own.affine, (own.record,), ("",), own.record, own.record)
    names = [name for name in model.channels if name not in config.also]
    contrast = config.contrast or next(iter(names), "")
    if unknown := sorted({contrast, *config.also, *config.hide} - set(model.channels)):
        raise ConfigError(
            f"no channel {', '.join(unknown)}",
            where=config.model,
            mend=f"its channels are {', '.join(model.channels)}",
        )
    session = prepare_session(
        {**config.also, contrast: config.scan},
        model.channels,
        lambda entry: prepare_entry(entry, model.contract),
    )
    np.nan_to_num(session.data, copy=False, nan=0.0)
    there = [record for record in session.records if record is not None]
    given = session.records[model.channels.index(contrast)]
    assert given is not None
    grid = next(record for record in there if record.own_grid)
    return _Scans(session.data, session.affine, session.records, model.channels, grid, given)


def _describe(config: ReconstructConfig, model: SavedModel, found: list[Reconstruction]) -> None:
    """`reconstruction.json`."""
    errors = [result.errors() for result in found]
    by_name = dict(zip(model.channels, errors, strict=bool(model.channels)))
    about = {
        "scan": str(config.scan),
        **({"also": {name: str(path) for name, path in config.also.items()}} if config.also else {}),
        "mask": "random blocks" if config.mask is None else str(config.mask),
        "masked_share": float(np.mean([result.mask.mean() for result in found])),
        "t": config.t,
        "sigma": found[0].sigma,
        "seed": config.seed,
        "space": config.space,
        "window": list(model.patch),  # voxels; windows of the training patch, half overlapping and blended
        **({"hidden": list(config.hide), "channels": by_name} if by_name else errors[0]),
    }
    with atomic_write(config.out / "reconstruction.json") as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n")


def _own_mask(config: ReconstructConfig, record: PreparedRecord) -> np.ndarray:
    """The user's mask on the prepared grid, by nearest neighbour."""
    assert config.mask is not None
    scan = read_scan(config.mask)
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


def _write(
    config: ReconstructConfig, name: str, volume: np.ndarray, record: PreparedRecord | None, scans: _Scans
) -> None:
    """One volume as NIfTI, in the wanted space; a contrast that is lacking has no intensities but z-scores."""
    path = config.out / f"{name}.nii.gz"
    if config.space == "prepared":
        write_nifti(path, volume.astype(np.float32), scans.affine)
        return
    affine = np.array(scans.grid.source_affine)
    if volume.dtype == bool:
        write_nifti(path, to_native(volume.astype(np.float32), scans.grid, order=0).astype(np.uint8), affine)
        return
    fill = 0.0 if record is None else record.background * record.std + record.mean
    intensities = volume if record is None else denormalise(volume, record)
    write_nifti(path, to_native(intensities, scans.grid, fill=fill), affine)
