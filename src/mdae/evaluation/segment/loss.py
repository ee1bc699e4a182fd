"""Soft Dice and cross-entropy, of labels that may be soft and voxels that nobody labelled."""

from __future__ import annotations

from torch import Tensor

SMOOTH = 1.0  # voxels, so that a label that is nowhere and called nowhere costs nothing


def dice_and_cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    """The mean cross-entropy plus one less the mean soft Dice of the labels but the background.

    Dice is over the batch as one (Isensee et al. 2021, "batch Dice"), and over labels that occur in it.

    Args:
        scores: (B, K, D, H, W).
        target: likewise, the labels' shares, which sum to 1, or to 0 where nobody labelled.
    """
    known = target.sum(dim=1, keepdim=True)
    entropy = -(target * scores.log_softmax(dim=1)).sum() / known.sum().clamp_min(1.0)
    called = scores.softmax(dim=1) * known
    voxels = (0, 2, 3, 4)
    both = (called * target).sum(dim=voxels)[1:]
    size, reference = called.sum(dim=voxels)[1:], target.sum(dim=voxels)[1:]
    agreement = (2 * both + SMOOTH) / (size + reference + SMOOTH)
    present = (reference > 0).to(agreement)
    return entropy + 1 - (agreement * present).sum() / present.sum().clamp_min(1.0)
