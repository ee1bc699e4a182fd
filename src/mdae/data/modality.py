"""Which modality a scan is, by its range, where its file does not say."""

from __future__ import annotations

import numpy as np

from mdae.data.intensity import Intensity, Window

AIR_HU, TISSUE_HU = (-1100.0, -300.0), (-250.0, 250.0)  # air, lung and fat-free soft tissue
MOST_HU = 4100.0  # metal, of 12 bits
CT_STANDARDISED = "a CT whose Hounsfield units are lost, --intensity ct-brain or another window keeps them"
WINDOWED = "a window of Hounsfield units on what does not look like CT"
ENOUGH, SOME, LUNG = 0.02, 0.005, 0.9  # of the voxels; a crop of a lung has hardly any tissue


def looks_like_ct(values: np.ndarray) -> bool:
    """Whether intensities are such as Hounsfield units are: air or lung far below 0, tissue about 0, nothing lower.

    Padding below air is one value. A CT without air (cut to a window, or to an organ) cannot be told from others.

    Args:
        values: of a scan, from all over it.
    """
    lowest = float(values.min())
    if lowest >= AIR_HU[1]:  # nearly all MRI, at no cost
        return False
    below = values[values < AIR_HU[0]]
    if float(np.percentile(values, 99.9)) > MOST_HU or (below.size and (below != lowest).mean() > SOME):
        return False
    inside = values[values >= AIR_HU[0]]
    if not inside.size:
        return False
    air = float(((inside > AIR_HU[0]) & (inside < AIR_HU[1])).mean())
    tissue = float(((inside > TISSUE_HU[0]) & (inside < TISSUE_HU[1])).mean())
    return air > ENOUGH and (tissue > ENOUGH or air > LUNG)


def told_of_scaling(modality: str, intensity: Intensity) -> tuple[str, ...]:
    """What is to be told of a CT whose units are thrown away, or of a window on what has none."""
    windowed = isinstance(intensity, Window)
    if modality == "CT" and not windowed:
        return (f"{CT_STANDARDISED}: {intensity}",)
    if windowed and modality != "CT":
        return (f"{WINDOWED}: {intensity} of {modality or 'an unknown modality'}",)
    return ()
