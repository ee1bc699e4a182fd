"""Fitted models of any kind, by their folder."""

from __future__ import annotations

from pathlib import Path

from mdae.inference.fitted import FittedModel, read_features_model
from mdae.inference.masks import FittedMasks, read_masks
from mdae.inference.record import read_record, read_tensors
from mdae.networks.hub import local_folder


def load_fitted(folder: str | Path, *, encoder: str = "", device: str = "auto") -> FittedModel | FittedMasks:
    """Read a fitted model; strict, and nothing in it is run.

    Args:
        folder: that `mdae fit` wrote, or OWNER/NAME of the Hugging Face Hub.
        encoder: where its encoder is now, if it is not where it was.
        device: where to compute.

    Raises:
        ModelError: no such folder, a file missing or damaged, or arrays that do not fit each other.
    """
    folder = local_folder(folder)
    about, tensors = read_record(folder), read_tensors(folder)
    if about.get("kind") == "segmentation":
        return read_masks(folder, about, tensors, encoder, device)
    return read_features_model(folder, about, tensors, encoder, device)
