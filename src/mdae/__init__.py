"""Pre-train 3D medical vision encoders without labels by Masked-Diffusion Autoencoders (MDAE).

>>> import mdae
>>> encoder = mdae.load("run/model")
>>> features = encoder.embed("scan.nii.gz")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdae.errors import MDAEError
from mdae.version import __version__

if TYPE_CHECKING:
    from mdae.evaluation.features.encoder import Encoder
    from mdae.evaluation.features.extractors import Embeds
    from mdae.inference.fitted import FittedModel
    from mdae.inference.masks import FittedMasks

__all__ = ["MDAEError", "__version__", "fit", "load", "load_fitted"]


def load(encoder: str | Path, *, device: str = "cpu") -> Encoder | Embeds:
    """An encoder, ready to embed scans: `mdae.load("run/model").embed("scan.nii.gz")`.

    Args:
        encoder: the folder `model` of a run, OWNER/NAME (with or without @REVISION) of the Hugging Face Hub, or
            whatever else `mdae embed` takes, such as "openmind-mae".
        device: where to compute, e.g. "cpu" or "cuda".

    Raises:
        ModelError, ConfigError: no model there, or a damaged one; no such device.
    """
    from mdae.evaluation.features.extractors import load_encoder  # here, so that `import mdae` is fast

    return load_encoder(str(encoder), device)


def fit(
    encoder: str | Path, labels: str | Path, out: str | Path, **options: Any
) -> FittedModel | FittedMasks:
    """Learn from a few labels what `predict` then says of new scans.

    >>> model = mdae.fit("run/model", "labels.csv", "fitted", label="diagnosis")
    >>> model.expected["auroc"]  # value, low and high: on new subjects
    >>> model.predict("scan.nii.gz").row()

    Args:
        encoder: a model folder, or whatever `mdae fit` takes.
        labels: a table, a BIDS tree, a folder of masks, or an nnU-Net raw data set.
        out: the folder to write.
        options: of `mdae fit`, with underscores; paths may be text.

    Raises:
        MDAEError: encoder, labels or scans that do not do, or too few subjects.
    """
    from mdae.inference.config import FitConfig
    from mdae.inference.fit import fit as run

    paths = {name: Path(options[name]) for name in ("scans", "subjects", "cache") if options.get(name)}
    return run(FitConfig(encoder=str(encoder), labels=Path(labels), out=Path(out), **{**options, **paths}))


def load_fitted(
    folder: str | Path, *, encoder: str | Path = "", device: str = "auto"
) -> FittedModel | FittedMasks:
    """A model that `mdae fit` wrote; nothing in it is run, wherever it comes from.

    Args:
        folder: of the fitted model.
        encoder: where its encoder is now, if it is not where it was.
        device: where to compute.

    Raises:
        ModelError: no fitted model there, or a damaged one.
    """
    from mdae.inference.load import load_fitted as read

    return read(folder, encoder=str(encoder), device=device)
