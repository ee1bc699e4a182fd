"""Pictures of segmentations: outlines on the slices that show most of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import ndimage


def overlay(volume: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Figure:
    """A sagittal, a coronal and an axial slice, each where most voxels are labelled, with the labels' outlines.

    Args:
        volume: (D, H, W) in RAS.
        labels: (D, H, W) of the classes' numbers, 0 for background.
        names: of the numbers from 0.
    """
    figure = Figure(figsize=(9.6, 3.4), facecolor="black")
    low, high = np.percentile(volume, [1, 99.5])
    colours = colormaps["tab10"].colors  # type: ignore[attr-defined]
    for axis, panel in enumerate(figure.subplots(1, 3)):
        others = tuple(other for other in range(3) if other != axis)
        there = (labels > 0).sum(axis=others)
        place = int(there.argmax()) if there.any() else volume.shape[axis] // 2
        panel.imshow(np.rot90(volume.take(place, axis)), cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
        own = np.rot90(labels.take(place, axis))
        for number in np.unique(own[own > 0]).tolist():
            panel.imshow(
                _outline(own == number, colours[(number - 1) % len(colours)]), interpolation="nearest"
            )
        panel.set_axis_off()
    lines = [
        Line2D([], [], color=colours[(number - 1) % len(colours)], label=name)
        for number, name in enumerate(names)
        if number and (labels == number).any()
    ]
    if lines:
        figure.legend(
            handles=lines, loc="lower center", ncols=4, frameon=False, labelcolor="white", fontsize=8
        )
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.1, top=0.99, wspace=0.02)
    return figure


def _outline(mask: np.ndarray, colour: Sequence[float]) -> np.ndarray:
    """The voxels of a mask that touch others, in a colour, and within it a tint; (H, W, 4)."""
    edge = mask & ~ndimage.binary_erosion(mask)
    return np.concatenate(
        [
            np.broadcast_to(np.array(colour), (*mask.shape, 3)),
            (0.9 * edge + 0.15 * (mask & ~edge))[..., None],
        ],
        axis=2,
    )
