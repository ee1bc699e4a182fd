"""The options of `mdae embed`, `mdae probe` and `mdae reconstruct`; torch-free, for the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from mdae.errors import ConfigError
from mdae.evaluation.finetuning.config import FinetuneOptions
from mdae.evaluation.nnunet.config import SegmentOptions
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.options import require_words

WindowMode = Literal["slide", "centre", "whole"]
Pool = Literal["mean", "max", "both"]


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Embed scans with a frozen encoder: one row of features a scan, or a session for a model of several contrasts."""

    model: Positional[Annotated[str, arg(metavar="ENCODER")]]
    """What `mdae evaluate` takes: a model folder, OWNER/NAME of the Hugging Face Hub, KIND:PATH, a short name of `mdae
    encoders`, untrained:tiny, or histogram."""
    scans: Positional[Annotated[tuple[Path, ...], arg(metavar="SCANS")]]
    """Scans, folders of scans, BIDS trees, or prepared stores."""
    out: Path = Path("features.csv")
    """Table to write, .csv, .tsv or .parquet."""
    window: WindowMode = "slide"
    """How a scan of any size is seen: windows of the training patch all over the head, the centre one, or whole."""
    pool: Pool = "mean"
    """What is kept of each feature map: its mean (what is everywhere), its maximum (what is somewhere), or both."""
    regions: Path | None = None
    """Folder of label maps, named as their scans and on their grids: features of each label instead of the scan, a row
    each, so that the lesion or the organ is what is described."""
    maps: tuple[int, ...] = ()
    """Stages, from 1 (the finest), whose feature maps are written as NIfTI on each scan's own grid, into a folder
    beside OUT; a volume a channel."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto."""
    workers: int = 0
    """Threads that prepare scans while the network runs; 0 for one a core."""
    keep_labels: bool = False
    """Take label maps (masks, segmentations) as well."""
    subject_from: str = "auto"
    """What tells the subject of raw scans: auto, folder, name or a regular expression, as in `mdae prepare`."""

    def __post_init__(self) -> None:
        if self.out.suffix not in (".csv", ".tsv", ".parquet"):
            raise ConfigError(
                f"cannot write {self.out.name}", mend="give --out a name in .csv, .tsv or .parquet"
            )


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Probe features: how well a linear model tells a label from them, with intervals, split by subject.

    Each contrast on its own, and all side by side. Two classes: AUROC and average precision. Several: the mean AUROC of
    each against the rest, and who is taken for whom. Numbers: mean absolute error, R squared and Pearson's r."""

    features: Positional[Annotated[Path, arg(metavar="FEATURES")]]
    """Table that `mdae embed` wrote."""
    labels: Positional[Annotated[Path, arg(metavar="LABELS")]]
    """Table of labels (.csv, .tsv, .xlsx, .parquet) with a column scan, path or subject (participant_id, PatientID),
    and session where they change; a column `split` with train, val and test fixes the split."""
    label: str
    """Column of the label: classes, or numbers."""
    positive: str = ""
    """The class to tell from all others; of two, the later one if left out."""
    kind: Literal["auto", "classification", "regression"] = "auto"
    """What the label is; auto takes words, and up to ten different whole numbers, for classes."""
    missing: tuple[str, ...] = ()
    """Words that are no label (unknown, None); blank cells and n/a never are, and no word among numbers."""
    out: Path | None = None
    """JSON file for the results."""
    folds: int = 5
    """Outer folds of the cross-validation, where there is no column `split`."""
    repeats: int = 5
    """Cross-validations with other folds, whose scores are averaged."""
    seed: int = 0
    """Of folds and intervals."""

    def __post_init__(self) -> None:
        require_words(self)
        if self.folds < 2 or self.repeats < 1:
            raise ConfigError("fewer than 2 folds or no repeat", mend="give --folds 5 --repeats 5, say")
        if self.positive and self.kind == "regression":
            raise ConfigError(
                "--positive of a number", mend="leave out one of --positive and --kind regression"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Give an encoder its trial on tasks of the catalogue, or on your own."""

    encoder: str = ""
    """Model folder, untrained:tiny or untrained:tiny:SEED (as pre-training begins), third-party weights, KIND:PATH,
    such as nnssl:checkpoint_final.pth (`mdae encoders` lists the kinds), a class of your own in my_encoder.py, or a
    baseline: histogram, clinical:age,sex (columns of the data set's table), cnn (from scratch, fine-tuned), and of
    voxels position, place or intensities, with :MODEL behind to prepare scans as MODEL's are."""
    features: Path | None = None
    """Instead of --encoder: a table of features that were made elsewhere, a row a scan."""
    task: tuple[str, ...]
    """Names of tasks (`mdae tasks`), or YAML or Python files with your own; several share --data. Or the folder of an
    nnU-Net raw data set."""
    data: Path | None = None
    """Folder that the data set's download unpacked to; a table for tasks of layout `table`. An nnU-Net raw data set
    needs none."""
    protocol: Literal["auto", "linear", "knn", "finetune", "voxels", "segment"] = "auto"
    """Logistic or ridge regression (linear), or nearest neighbours, on frozen features; or fine-tuning of the whole
    encoder. Segmentation tasks are nnU-Net's, but for voxels, a multinomial regression of every voxel on the network's
    frozen maps, and segment, which fine-tunes the network from that readout, for few masks. auto is linear, or
    nnU-Net."""
    with_position: bool = False
    """Of voxels: give the readout the place in the scan and the intensities around as well; segment always has them."""
    train_sizes: tuple[str, ...] = ()
    """Learn from so many subjects each, such as 1 2 4 8 16 all; smaller draws are parts of larger ones, and the same
    for every encoder. Not of finetune, nor of nnU-Net."""
    draws: int = 5
    """Draws of each of the train sizes."""
    dice_only: bool = False
    """Of voxels and segment: leave out NSD and average precision, which take most of the time where scans are small."""
    contrasts: Annotated[tuple[str, ...], arg(aliases=("--modalities",))] = ()
    """Of the task's; all if left out. Subjects without one of them are left out."""
    subjects: Path | None = None
    """Table with columns `scan` and `subject` of whose the cases are, where several are of one person: nnU-Net's raw
    data sets do not tell. Parts and intervals are then by person."""
    split: Path | None = None
    """Table with `subject` and `split` (train, val, test) instead of cross-validation, such as `mdae split` writes."""
    out: Path = Path("results")
    """Folder for the result files."""
    name: str = ""
    """The encoder's name in tables; its folder's if left out."""
    cache: Path | None = None
    """Folder of features that were computed once; ~/.cache/mdae/features if left out."""
    window: WindowMode = "slide"
    """How a scan of any size is seen, as in `mdae embed`; of our own encoders, frozen."""
    pool: Pool = "mean"
    """What is kept of each feature map, as in `mdae embed`; of our own encoders, frozen."""
    folds: int = 5
    """Outer folds of the cross-validation."""
    repeats: int = 5
    """Cross-validations with other folds (with --split: seeds of fine-tuning), whose scores are averaged. Segmentation
    has one."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto."""
    workers: int = 0
    """Threads that prepare scans while the network runs; 0 for one a core."""
    seed: int = 0
    """Of folds and intervals."""
    finetune: FinetuneOptions = field(default_factory=FinetuneOptions)
    """Of --protocol finetune."""
    segment: SegmentOptions = field(default_factory=SegmentOptions)
    """Of segmentation tasks, which nnU-Net is trained on."""
    few: FewLabelOptions = field(default_factory=FewLabelOptions)
    """Of --protocol segment, and the points of voxels."""

    def __post_init__(self) -> None:
        require_words(self)
        if self.folds < 2 or self.repeats < 1:
            raise ConfigError("fewer than 2 folds or no repeat", mend="give --folds 5 --repeats 5, say")
        if bool(self.encoder) == (self.features is not None):
            both = "both --encoder and --features" if self.encoder else "neither --encoder nor --features"
            raise ConfigError(f"{both} given", mend="give one of the two")
        if not self.task:
            raise ConfigError("no task named", mend="give --task one or more of `mdae tasks`")
        wrong = [
            size for size in self.train_sizes if size != "all" and not (size.isdigit() and int(size) > 0)
        ]
        if wrong or self.draws < 1:
            raise ConfigError(
                f"train size {wrong[0]!r}" if wrong else f"{self.draws} draws",
                mend="give --train-sizes 1 2 4 8 16 all --draws 5, say",
            )
        if self.with_position and self.protocol != "voxels":
            raise ConfigError(
                f"--protocol {self.protocol} with --with-position", mend="it is of --protocol voxels"
            )

    @property
    def frozen(self) -> bool:
        """Whether the encoder stays as it is."""
        return self.protocol != "finetune"

    @property
    def root(self) -> Path:
        """The data; raises `ConfigError` if none are named."""
        if self.data is None:
            raise ConfigError("no data named", mend="give --data the folder of the download")
        return self.data


@dataclass(frozen=True, kw_only=True)
class TasksConfig:
    """List the benchmark tasks, or show one with its cohort, its label and the layout of its download."""

    name: Positional[Annotated[str, arg(metavar="NAME")]] = ""
    """Task to show whole, or a file of your own; all in a table if left out."""


@dataclass(frozen=True, kw_only=True)
class EncodersConfig:
    """List the encoders that evaluate, embed and fit take, or show one: paper, licence and pre-training data."""

    name: Positional[Annotated[str, arg(metavar="NAME")]] = ""
    """Encoder or kind to show whole; all in a table if left out."""


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig:
    """Corrupt a scan and let the network restore it: NIfTI files on the scan's own grid, and a picture."""

    model: Positional[Annotated[Path, arg(metavar="MODEL")]]
    """Model folder, such as RUN/model."""
    scan: Positional[Annotated[Path, arg(metavar="SCAN")]]
    """A raw scan."""
    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """Folder to write."""
    also: dict[str, Path] = field(default_factory=dict)
    """Of a model of several channels: the session's other contrasts, FLAIR flair.nii.gz T2w t2.nii.gz, say. What is
    neither SCAN nor here is restored from what is."""
    contrast: str = ""
    """Which channel SCAN is; the first that --also does not name, if left out."""
    hide: tuple[str, ...] = ()
    """Channels to mask whole, and so to restore from the others."""
    mask_ratio: float = 0.5
    """Share of blocks that are masked, 0 to 1."""
    mask: Path | None = None
    """A mask of your own on the scan's grid instead; non-zero is masked."""
    t: float = 0.5
    """Time: how much noise, 0 (none) to 1 (the model's most)."""
    space: Literal["native", "prepared"] = "native"
    """Write on the scan's own grid and in its own intensities, or on the network's grid in z-scores."""
    device: str = "auto"
    """cpu, cuda, mps, or auto."""
    seed: int = 0
    """Of mask and noise."""

    def __post_init__(self) -> None:
        if not (0 <= self.mask_ratio <= 1 and 0 <= self.t <= 1):
            raise ConfigError("mask_ratio or t outside [0, 1]", mend="give 0 to 1")
