"""What is written of a segmented scan: the mask, probabilities if they are wanted, and a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mdae.data.catalogue import safe_name
from mdae.data.io import write_nifti
from mdae.data.preprocess import PreparedScan
from mdae.inference.config import PredictConfig
from mdae.inference.heads import Row
from mdae.inference.masks import FittedMasks
from mdae.inference.visits import Visit

PARTS = "parts"  # of a row: goes into a table of its own


@dataclass(frozen=True)
class MaskWriter:
    """Segments a visit and writes its files into `config.out`; gives the row that tells of them."""

    model: FittedMasks
    config: PredictConfig

    def __call__(self, visit: Visit, prepared: list[PreparedScan], notes: list[str]) -> Row:
        found, name, out = self.model.segment(prepared, notes), safe_name(visit.name), self.config.out
        if self.config.probabilities:
            for label, one in zip(found.names, found.probabilities, strict=True):
                path = out / f"{name}_probability-{safe_name(label)}.nii.gz"
                write_nifti(path, one.astype(np.float32), found.affine)
        if self.config.pictures:
            from mdae.figures import save_png  # here: an extra
            from mdae.inference.pictures import overlay

            save_png(out / f"{name}.png", overlay(found.seen, found.seen_labels, found.names))
        found.save(out / f"{name}.nii.gz")  # last: with it, all is there
        return {
            "mask": f"{name}.nii.gz",
            **{f"{label}_ml": volume for label, volume in found.volumes_ml.items()},
            "warnings": "; ".join(found.warnings),
            PARTS: found.parts(),
        }
