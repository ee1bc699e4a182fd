"""The options of `mdae fit` and `mdae predict`; torch-free, for the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from mdae.errors import ConfigError
from mdae.evaluation.configs import Pool, WindowMode
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.options import require_words

FitKind = Literal["auto", "classification", "regression", "survival", "segmentation"]


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Learn from a few labels what `mdae predict` then says of new scans."""

    encoder: Positional[Annotated[str, arg(metavar="ENCODER")]]
    """What `mdae evaluate` takes: a model folder, OWNER/NAME of the Hugging Face Hub, KIND:PATH, untrained:tiny,
    histogram; or a table of features (.csv, .tsv, .parquet)."""
    labels: Positional[Annotated[Path, arg(metavar="LABELS")]]
    """What to learn: a table (.csv, .tsv, .parquet) with a column scan, path, subject or participant_id; a BIDS tree
    with participants.tsv; a folder of masks; or an nnU-Net raw data set."""
    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """Folder to write."""
    scans: Path | None = None
    """The labelled scans, if they do not lie with the labels: a folder, a BIDS tree, a manifest."""
    label: str = ""
    """Column of a table's label; of survival, the time. Not needed where there is one only."""
    event: str = ""
    """Column that says whether the time ended in the event (1) or the subject was lost (0): survival."""
    kind: FitKind = "auto"
    """What the labels are; auto: masks are segmented, words and few whole numbers are classes, others numbers."""
    positive: str = ""
    """Value of the label to tell from all others."""
    subjects: Path | None = None
    """Table of columns scan and subject, where scans' names do not tell whose they are."""
    contrasts: tuple[str, ...] = ()
    """Of which contrast scans are taken; of several, a subject's stand side by side. Not needed where there is one."""
    bundle: bool = False
    """Put the encoder's weights into OUT, so that it needs nothing else."""
    window: WindowMode = "slide"
    """How a scan of any size is seen, as in `mdae embed`; of our own encoders."""
    pool: Pool = "mean"
    """What is kept of each feature map, as in `mdae embed`; of our own encoders."""
    folds: int = 5
    """Of the cross-validation that tells the expected performance."""
    repeats: int = 5
    """Cross-validations with other folds, whose scores are averaged."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto."""
    workers: int = 0
    """Threads that prepare scans while the network runs; 0 for one a core."""
    cache: Path | None = None
    """Folder of features that were computed once; ~/.cache/mdae/features if left out."""
    seed: int = 0
    """Of folds and intervals."""
    few: FewLabelOptions = field(default_factory=FewLabelOptions)
    """Of masks."""

    def __post_init__(self) -> None:
        require_words(self)
        if self.folds < 2 or self.repeats < 1:
            raise ConfigError("fewer than 2 folds or no repeat", mend="give --folds 5 --repeats 5, say")
        if self.event and self.kind not in ("auto", "survival"):
            raise ConfigError(f"--event with --kind {self.kind}", mend="leave one of them out")


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Say of new scans what a fitted model has learned: a table, or masks on the scans' own grids."""

    model: Positional[Annotated[str, arg(metavar="FITTED")]]
    """Folder that `mdae fit` wrote, or OWNER/NAME of the Hugging Face Hub."""
    scans: Positional[Annotated[tuple[Path, ...], arg(metavar="SCANS")]]
    """Scans, folders of scans, BIDS trees, manifests; tables of features for a model that was fitted on one."""
    out: Path = Path("predictions")
    """Table to write (.csv, .tsv, .parquet), or a folder for it; of masks, the folder."""
    encoder: str = ""
    """Where the encoder is now, if it is not where it was when the model was fitted."""
    probabilities: bool = False
    """Write every class's probability as NIfTI beside the mask."""
    pictures: bool = True
    """Write a picture of each mask."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto."""
    workers: int = 0
    """Threads that prepare scans while the network runs; 0 for one a core."""

    def __post_init__(self) -> None:
        if not self.scans:
            raise ConfigError("no scans given", mend="name scans, folders or tables after the model")
