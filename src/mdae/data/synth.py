"""`mdae synth`: a made-up cohort on real anatomy, as a BIDS tree with labels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from threadpoolctl import threadpool_limits
from tyro.conf import Positional, arg

from mdae.data.anatomy import (
    CONTRASTS,
    NOISE,
    TISSUES,
    WARP_MM,
    draw_anatomy,
    draw_contrast,
    draw_lesions,
    load_template,
)
from mdae.data.io import write_nifti
from mdae.errors import ConfigError, DataError
from mdae.files import atomic_write
from mdae.progress import Progress
from mdae.seeding import numpy_generator
from mdae.version import __version__

LABEL_BLOCK = 4  # labels are balanced within every so many consecutive subjects


@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """Make up a cohort on real anatomy: deformed ICBM152 brains, in part of them white-matter lesions."""

    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """Folder of the BIDS tree to make; the same command again completes it."""
    subjects: int = 64
    """Number of subjects; each depends on the seed and its number alone."""
    contrasts: tuple[str, ...] = ("T1w", "T2w", "FLAIR")
    """Contrasts of each subject, of T1w, T2w and FLAIR."""
    lesion_fraction: float = 0.5
    """Share of subjects with lesions; exact in every four consecutive ones."""
    lesion_load: float = 1.0
    """How strong lesions are; 0 leaves labels without an effect."""
    spacing_mm: float = 2.0
    """Voxel spacing."""
    warp_mm: float = WARP_MM
    """How far anatomy is displaced from the template's, a standard deviation; at more than 8 it folds."""
    noise: tuple[float, float] = NOISE
    """Standard deviation of the noise of the cleanest and of the noisiest scan; white matter in T1w is about 1."""
    seed: int = 0
    """Everything random follows from it."""
    workers: int = 0
    """Processes; 0 for one a core."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.contrasts if name not in CONTRASTS]
        if unknown or not self.contrasts:
            raise ConfigError(f"no contrast {', '.join(unknown)}", mend=f"use some of {', '.join(CONTRASTS)}")
        if len(set(self.contrasts)) < len(self.contrasts):
            raise ConfigError("a contrast is given twice", mend="give each once")
        if not 1 <= self.subjects <= 9999:
            raise ConfigError(f"{self.subjects} subjects", mend="give 1 to 9999")
        if not (0 <= self.lesion_fraction <= 1 and 0 <= self.lesion_load <= 1):
            raise ConfigError("lesion_fraction or lesion_load outside [0, 1]", mend="give 0 to 1")
        if not 0.5 <= self.spacing_mm <= 8:
            raise ConfigError(f"a spacing of {self.spacing_mm} mm", mend="give 0.5 to 8")
        if not 0 <= self.warp_mm <= 8:
            raise ConfigError(f"displacements of {self.warp_mm} mm", mend="give 0 to 8")
        if not 0 <= self.noise[0] <= self.noise[1] <= 1:
            raise ConfigError(f"noise of {self.noise}", mend="give two numbers in order, of 0 to 1")
        if self.seed < 0 or self.workers < 0:
            raise ConfigError("a negative seed or number of workers", mend="give 0 or more")


def has_lesions(config: SynthConfig, subject: int) -> bool:
    """A subject's label: drawn by the seed, balanced within every block of consecutive subjects."""
    block, place = divmod(subject - 1, LABEL_BLOCK)
    quota = config.lesion_fraction * LABEL_BLOCK
    number = round((block + 1) * quota) - round(block * quota)
    order = numpy_generator(config.seed, "labels", block).permutation(LABEL_BLOCK)
    return bool(order[place] < number)


def synthesise(config: SynthConfig) -> Path:
    """Make or complete a cohort and return its folder.

    The tree holds `sub-0001/anat/sub-0001_T1w.nii.gz` and so on; under `derivatives/lesions` a lesion mask of each
    subject (all 0 without lesions), under `derivatives/tissues` its tissues by `TISSUES`; and `participants.tsv` with
    `participant_id`, `lesion` (0 or 1), `num_lesions` and `lesion_volume_ml`. Voxels are int16, 0 outside the brain;
    axes are RAS, millimetres MNI152's.

    Raises:
        DataError: the folder holds something else, or a cohort of other options; or a worker was killed.
    """
    _claim(config)
    missing = [k for k in range(1, config.subjects + 1) if not _sidecar(config, k).exists()]
    with Progress("making up", len(missing), unit="subjects") as progress:
        for _ in _made(config, missing):
            progress.advance()
    _write_participants(config)
    return config.out


def _claim(config: SynthConfig) -> None:
    """Describe the cohort in its folder, or check that it is the one described there."""
    options = {k: v for k, v in asdict(config).items() if k not in ("out", "subjects", "workers")}
    options |= {"contrasts": list(config.contrasts), "noise": list(config.noise)}
    path = config.out / "dataset_description.json"
    if path.exists():
        try:
            before = json.loads(path.read_text())["GeneratedBy"][0]["Parameters"]
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            before = None
        if before != options:
            raise DataError(
                "not this cohort: other options, or no made-up cohort at all",
                where=config.out,
                mend="repeat its options or give another folder",
            )
        return
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise DataError("not empty and not a made-up cohort", where=config.out, mend="give a new folder")
    _describe(config.out, "raw", options)
    for name in ("lesions", "tissues"):
        _describe(config.out / "derivatives" / name, "derivative", options)
    rows = "".join(f"{number}\t{name}\n" for number, name in TISSUES.items())
    (config.out / "derivatives" / "tissues" / "dseg.tsv").write_text("index\tname\n" + rows)


def _describe(folder: Path, kind: str, options: dict[str, Any]) -> None:
    about = {
        "Name": "made-up subjects on ICBM152",
        "BIDSVersion": "1.9.0",
        "DatasetType": kind,
        "GeneratedBy": [{"Name": "mdae synth", "Version": __version__, "Parameters": options}],
    }
    with atomic_write(folder / "dataset_description.json") as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n")


def tissue_labels(cohort: Path, subject: str) -> Path:
    """The file of a subject's tissues, by `TISSUES`."""
    return cohort / "derivatives" / "tissues" / subject / "anat" / f"{subject}_dseg.nii.gz"


def _sidecar(config: SynthConfig, subject: int) -> Path:
    """A subject's label and lesion measures; written last, so that it marks a whole subject."""
    name = f"sub-{subject:04d}"
    return config.out / "derivatives" / "lesions" / name / "anat" / f"{name}_label-lesion_mask.json"


def _made(config: SynthConfig, subjects: list[int]) -> Iterator[None]:
    """Make subjects, in this process or in several."""
    workers = min(config.workers or os.cpu_count() or 1, len(subjects))
    if workers <= 1:
        for subject in subjects:
            make_subject(config, subject)
            yield
        return
    with ProcessPoolExecutor(workers, initializer=threadpool_limits, initargs=(1,)) as pool:
        try:
            for future in as_completed([pool.submit(make_subject, config, subject) for subject in subjects]):
                future.result()
                yield
        except BrokenProcessPool as error:
            mend = "repeat the command with fewer --workers; what is made is kept"
            raise DataError("a worker was killed, perhaps for memory", where=config.out, mend=mend) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def make_subject(config: SynthConfig, subject: int) -> None:
    """Write one subject's scans, lesion mask and measures."""
    template = load_template(config.spacing_mm)
    lesions = draw_lesions(template, config.seed, subject) if has_lesions(config, subject) else None
    anatomy = draw_anatomy(template, config.seed, subject, lesions, config.warp_mm)
    name = f"sub-{subject:04d}"
    for contrast in config.contrasts:
        image = draw_contrast(
            anatomy, contrast, config.spacing_mm, config.seed, subject, config.lesion_load, config.noise
        )
        write_nifti(config.out / name / "anat" / f"{name}_{contrast}.nii.gz", image, template.affine)
    write_nifti(tissue_labels(config.out, name), anatomy.labels, template.affine)
    mask = np.zeros(template.gm.shape, dtype=bool) if anatomy.lesion is None else anatomy.lesion > 0
    write_nifti(_sidecar(config, subject).with_suffix(".nii.gz"), mask.astype(np.uint8), template.affine)
    measures = {
        "lesion": int(lesions is not None),
        "num_lesions": 0 if lesions is None else lesions.number,
        "lesion_volume_ml": round(float(mask.sum()) * config.spacing_mm**3 / 1000, 3),
    }
    with atomic_write(_sidecar(config, subject)) as temporary:
        temporary.write_text(json.dumps(measures) + "\n")


def _write_participants(config: SynthConfig) -> None:
    """The table of all subjects that the folder holds."""
    rows = ["participant_id\tlesion\tnum_lesions\tlesion_volume_ml\n"]
    for path in sorted((config.out / "derivatives" / "lesions").glob("sub-*/anat/*_mask.json")):
        measures = json.loads(path.read_text())
        values = [path.parts[-3], *(measures[key] for key in ("lesion", "num_lesions", "lesion_volume_ml"))]
        rows.append("\t".join(str(value) for value in values) + "\n")
    with atomic_write(config.out / "participants.tsv") as temporary:
        temporary.write_text("".join(rows))
