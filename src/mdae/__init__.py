"""Pre-train 3D medical vision encoders without labels by Masked-Diffusion Autoencoders (MDAE).

>>> import mdae
>>> encoder = mdae.load("run/model")
>>> features = encoder.embed("scan.nii.gz")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mdae.errors import MDAEError
from mdae.version import __version__

if TYPE_CHECKING:
    from mdae.evaluation.features.encoder import Encoder

__all__ = ["MDAEError", "__version__", "load"]


def load(path: str | Path, *, device: str = "cpu") -> Encoder:
    """The encoder of a saved model, ready to embed scans.

    Args:
        path: the folder `model` of a run.
        device: where to compute, e.g. "cpu" or "cuda".

    Raises:
        ModelError: no model there, or a damaged one.
    """
    from mdae.evaluation.features.encoder import Encoder  # here, so that `import mdae` is fast

    return Encoder.load(path, device=device)
