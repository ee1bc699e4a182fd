"""What `pip install mdae` leaves out, and the one line that says how to get it.

The core embeds, fits and predicts; what only pre-training, reports or some formats need comes with an extra.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mdae.errors import ConfigError, MDAEError

# The extra that brings a package; pyproject.toml says the same.
EXTRAS = {
    "SimpleITK": "itk",
    "batchgenerators": "nnunet",
    "blosc2": "train",
    "dcm2niix": "dicom",
    "jinja2": "report",
    "matplotlib": "report",
    "nilearn": "synth",
    "nnunetv2": "nnunet",
    "openpyxl": "excel",
    "pyarrow": "parquet",
    "pydicom": "dicom",
    "submitit": "train",
    "tensorboard": "train",
    "torchio": "torchio",
    "wandb": "wandb",
}


def install(package: str) -> str:
    """The command that brings a package of an extra."""
    return f"pip install 'mdae[{EXTRAS[package]}]'"


def is_installed(package: str) -> bool:
    """Whether it can be imported, found without importing it."""
    return importlib.util.find_spec(package) is not None


def require(
    package: str, does: str, kind: type[MDAEError] = ConfigError, *, where: str | Path | None = None
) -> None:
    """Raise an error where a package of an extra is not installed.

    Args:
        package: as it is imported.
        does: what it is wanted for, such as "reads Excel workbooks".
        kind: of the error; `ScanError` sets a scan aside.
        where: the file or option that wants it.
    """
    if not is_installed(package):
        raise kind(f"{package} is not installed, which {does}", where=where, mend=install(package))


def missing_extra(error: ModuleNotFoundError) -> MDAEError | None:
    """The line for an import that failed for want of an extra; None if it did for another reason."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return ConfigError(f"{package} is not installed, which this needs", mend=install(package))
