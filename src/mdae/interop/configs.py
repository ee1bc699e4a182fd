"""The options of `mdae export`; torch-free, for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from mdae.errors import ConfigError

ExportFormat = Literal["nnunet", "nnssl", "encoder"]
SUFFIXES = {"nnunet": ".pth", "nnssl": "", "encoder": ".safetensors"}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a model for other systems, its time conditioning folded away: a plain residual encoder or U-Net."""

    model: Positional[Annotated[Path, arg(metavar="MODEL")]]
    """Model folder, such as RUN/model."""
    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """File to write: .pth for nnunet, .safetensors for encoder; for nnssl a folder."""
    format: ExportFormat = "nnunet"
    """nnunet: what `nnUNetv2_train -pretrained_weights` starts from. nnssl: a checkpoint with its adaptation plan, for
    nnssl's fine-tuning forks. encoder: the encoder's weights alone, for code that knows a ResEnc."""
    channels: int | None = None
    """Contrasts of the data set, for nnunet; the model's own number if left out."""
    plans: Path | None = None
    """Plans of the data set, for nnunet: a copy with this network's architecture, patch and spacing is written beside
    them, under OUT's name."""

    def __post_init__(self) -> None:
        if self.format != "nnunet" and (self.channels is not None or self.plans is not None):
            raise ConfigError(
                f"--channels and --plans for {self.format}", mend="they are for --format nnunet alone"
            )
        if self.channels is not None and self.channels < 1:
            raise ConfigError(f"channels is {self.channels}", mend="give 1 or more")
        if self.out.suffix != SUFFIXES[self.format] and self.format != "nnssl":
            raise ConfigError(
                f"cannot write {self.out.name} for {self.format}",
                mend=f"give a name in {SUFFIXES[self.format]}",
            )
        if self.plans is not None and self.plans.stem == self.out.stem:
            raise ConfigError(
                f"the plans would be written over {self.plans.name}", mend="give OUT another name"
            )


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """Put a model, or what was fitted on one, on the Hugging Face Hub, with a card that says what it is."""

    model: Positional[Annotated[Path, arg(metavar="MODEL")]]
    """Model folder, such as RUN/model, or a folder that `mdae fit` wrote."""
    name: Positional[Annotated[str, arg(metavar="OWNER/NAME")]]
    """Of the repository; it is made if it is not there."""
    private: bool = True
    """Make a new repository that you alone see."""
    licence: str = "other"
    """Of the weights, by the Hub's short name: apache-2.0, cc-by-4.0, cc-by-nc-4.0, ..."""


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """Write a model's card: what it is for, how it came about, how well it does, and how to use it."""

    model: Positional[Annotated[Path, arg(metavar="MODEL")]]
    """Model folder, such as RUN/model, or a folder that `mdae fit` wrote."""
    out: Path | None = None
    """File to write; README.md in the model's folder if left out."""
    name: str = "OWNER/NAME"
    """Of the repository, for the lines that use it."""
    results: Path | None = None
    """Folder of result files of `mdae evaluate`: this model's scores go into the card."""
    licence: str = "other"
    """Of the weights, by the Hub's short name."""
