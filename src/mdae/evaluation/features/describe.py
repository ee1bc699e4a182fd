"""What is said of a scan by its features: as a whole or region by region, and its feature maps if they are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mdae.data.catalogue import safe_name
from mdae.data.formats import is_scan
from mdae.data.io import write_nifti_series
from mdae.data.label_file import read_label_map, same_grid
from mdae.data.mask_names import MaskNames
from mdae.data.native import labels_on_grid
from mdae.errors import DataError, ScanError
from mdae.evaluation.configs import EmbedConfig
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.features.extractors import Extractor
from mdae.evaluation.features.items import Item, Loaded
from mdae.evaluation.features.maps import embed_regions, native_maps

WHOLE = ""  # the region of a row that is of all of a scan


@dataclass(frozen=True)
class Describer:
    """Features of a scan by region.

    Attributes:
        encoder: frozen.
        config: what is wanted.
        masks: of the regions; None for the scan as a whole.
    """

    encoder: Encoder | Extractor
    config: EmbedConfig
    masks: MaskNames | None

    @classmethod
    def of(cls, encoder: Encoder | Extractor, config: EmbedConfig) -> Describer:
        """Raises `DataError` for a folder without label maps, or stores, which do not tell where a voxel was."""
        stores = [source for source in config.scans if (source / "store.json").exists()]
        if stores and (config.regions or config.maps):
            raise DataError(
                "a store, whose volumes are no longer on their scans' grids",
                where=stores[0],
                mend="give the raw scans",
            )
        if config.regions is None:
            return cls(encoder, config, None)
        found = [path for path in config.regions.rglob("*") if is_scan(path)]
        if not found:
            raise DataError("no label map there", where=config.regions, mend="name their folder")
        return cls(encoder, config, MaskNames(found))

    def __call__(self, item: Item, found: Loaded) -> dict[str, np.ndarray]:
        """The features (F,) of each region, `WHOLE` for all of the scan; writes the scan's maps if they are wanted.

        Raises:
            ScanError: no label map of the scan, several, or one that does not do.
        """
        self._write_maps(item, found)
        if self.masks is not None:
            assert isinstance(self.encoder, Encoder)
            return self._regions(self.encoder, self.masks, item, found)
        if isinstance(self.encoder, Encoder):
            window, pool = self.config.window, self.config.pool
            return {
                WHOLE: self.encoder.embed_volume(found.volume, found.background, window=window, pool=pool)
            }
        assert found.prepared is not None  # stores are for encoders of ours
        return {WHOLE: self.encoder.features(found.prepared)}

    def _regions(
        self, encoder: Encoder, masks: MaskNames, item: Item, found: Loaded
    ) -> dict[str, np.ndarray]:
        own = masks.of(Path(item.path))
        if len(own) != 1:
            which = ", ".join(path.name for path in own) or "none"
            raise ScanError(
                f"{len(own)} label maps of its name ({which}); one is wanted",
                where=item.path,
                mend="call each as its scan, with _seg behind if you like",
            )
        prepared = found.prepared
        assert prepared is not None
        mask, affine = read_label_map(own[0])
        if not same_grid(prepared.record.source_shape, np.array(prepared.record.source_affine), mask, affine):
            raise ScanError("on another grid than its scan", where=own[0], mend="resample one to the other")
        labels = labels_on_grid(mask, prepared.record, ignore=None)
        said = embed_regions(encoder, found.volume, labels, found.background, pool=self.config.pool)
        if missing := sorted({int(label) for label in np.unique(mask[mask > 0])} - set(said)):
            raise ScanError(
                f"label {missing[0]} is nowhere on the grid of {encoder.contract.spacing_mm[0]:g} mm",
                where=own[0],
                mend="leave it out, or use an encoder of a finer grid",
            )
        if not said:
            raise ScanError("a label map of nothing", where=own[0], mend="label something above 0")
        return {str(label): features for label, features in said.items()}

    def _write_maps(self, item: Item, found: Loaded) -> None:
        prepared, out = found.prepared, self.config.out
        if not self.config.maps:
            return
        assert isinstance(self.encoder, Encoder) and prepared is not None
        record = prepared.record
        for stage in self.config.maps:
            name = f"{safe_name(item.scan)}_stage-{stage}.nii.gz"
            write_nifti_series(
                out.with_name(f"{out.stem}_maps") / name,
                native_maps(self.encoder, found.volume, found.background, record, stage),
                (*record.source_shape, self.encoder.widths[stage - 1]),
                np.array(record.source_affine),
            )
