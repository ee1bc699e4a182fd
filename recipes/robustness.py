"""Does an encoder that learned from noisy scans stand noise, and low resolution, better than others?

    python -m recipes.robustness OUT --study FEW --data Dataset004_Hippocampus --subjects subjects.csv
    python -m recipes.robustness_page

The encoders of `recipes.few_labels` (its folder is FEW) are read out after few labelled persons on scans as they are;
the same readouts then segment test persons' scans as they are, with Rician noise, and with larger voxels, on the masks'
own voxels. Degraded scans are cases of further persons of the data set, so that all of it is one `mdae evaluate` an
encoder. Of the two volumes of a test person one is taken.

Finished rows stand in `recipes/results/robustness/hippocampus.csv` as in that study, the kind of degradation behind the
readout's name; a later call adds others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import tyro
from nibabel.affines import voxel_sizes
from tyro.conf import Positional

from mdae.data.resample import AxisMap, resample
from mdae.files import atomic_write
from mdae.seeding import numpy_generator
from recipes import few_labels
from recipes.few_labels import KEY, StudyConfig, Trained, each_taken, link, read_all

RESULTS = Path(__file__).parent / "results" / "robustness"
BASELINE = "position"  # place and intensities
CLEAN = "clean"
NOISE = {"noise 0.25": 0.25, "noise 0.5": 0.5, "noise 1": 1.0}  # standard deviations of the crop
VOXELS_MM = {"voxels 1.5 mm": 1.5, "voxels 2 mm": 2.0, "voxels 3 mm": 3.0}
DEGRADED = (*NOISE, *VOXELS_MM)


@dataclass(frozen=True, kw_only=True)
class RobustnessConfig:
    """The study."""

    out: Positional[Path]
    """Folder of the degraded data set."""
    study: Path
    """Folder of `recipes.few_labels`, with its pre-trained encoders."""
    data: Path
    """Raw data set in nnU-Net's layout."""
    subjects: Path
    """Table with scan, subject, labelled and split."""
    steps: int = 1000
    """Of pre-training."""
    encoders: tuple[str, ...] = ("untrained", "mdae", "mae", "dsm")
    """Which; a later call adds others."""
    seeds: int = 2
    """Of pre-training."""
    readouts: tuple[str, ...] = ("alone",)
    """How persons are segmented: alone, beside place and intensities."""
    sizes: tuple[str, ...] = ("4", "16")
    """Numbers of labelled persons."""
    draws: int = 5
    """Of each."""


def rician(data: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """The magnitude of a signal with noise in both of its parts.

    Args:
        data: (D, H, W), 0 or more.
        level: standard deviation of the noise, in those of the data.
        rng: of the noise.
    """
    real, imaginary = level * data.std() * rng.standard_normal((2, *data.shape))
    return np.asarray(np.hypot(data + real, imaginary))


def coarser(data: np.ndarray, spacing_mm: np.ndarray, wanted_mm: float) -> np.ndarray:
    """A volume as a scanner of larger voxels would have it, on its own grid again."""
    down, up = [], []
    for side, own in zip(data.shape, spacing_mm, strict=True):
        scale = max(1.0, wanted_mm / float(own))
        few = max(2, round(side / scale))
        down.append(AxisMap(side, few, side / few, (side / few - 1) / 2))
        up.append(AxisMap(few, side, few / side, (few / side - 1) / 2))
    return resample(resample(data, (down[0], down[1], down[2])), (up[0], up[1], up[2]))


def degraded(scan: nib.Nifti1Image, how: str, seed: int) -> nib.Nifti1Image:
    """A scan with one of `DEGRADED`; the noise depends on the seed alone."""
    data = np.asarray(scan.get_fdata(), dtype=np.float32)
    if how in NOISE:
        data = rician(data, NOISE[how], numpy_generator(seed, how))
    else:
        data = coarser(data, voxel_sizes(scan.affine), VOXELS_MM[how])
    return nib.Nifti1Image(data.astype(np.float32), scan.affine)


def whose(subject: str, how: str) -> str:
    """The name of a test person whose scans are degraded."""
    return subject if how == CLEAN else f"{subject} {how}"


def readout_of(readout: str, how: str) -> str:
    """How a readout of scans that are degraded is called in the table."""
    return readout if how == CLEAN else f"{readout}, {how}"


def make_data(config: RobustnessConfig) -> pd.DataFrame:
    """The labelled cases and those of degraded test scans, one volume of each test person; the table of all."""
    table = pd.read_csv(config.subjects, dtype=str)
    table = table[table.labelled == "1"]
    table = table[(table.split != "test") | ~table.duplicated(["subject", "split"])]
    root, source = config.out / "data", config.data.resolve()
    about = json.loads((source / "dataset.json").read_text())
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    rows = table.to_dict("records")
    for number, row in enumerate(table[table.split == "test"].to_dict("records")):
        image = nib.load(source / "imagesTr" / f"{row['scan']}_0000.nii.gz")
        for how in DEGRADED:
            name = f"z_{row['scan']}_{how.replace(' ', '_')}"
            rows.append({**row, "scan": name, "subject": whose(row["subject"], how), "of": row["scan"]})
            if not (path := root / "imagesTr" / f"{name}_0000.nii.gz").exists():
                with atomic_write(path) as temporary:
                    nib.save(degraded(image, how, number), temporary)
    for row in rows:
        name, of = str(row["scan"]), str(row.get("of", row["scan"]))
        link(source / "labelsTr" / f"{of}.nii.gz", root / "labelsTr" / f"{name}.nii.gz")
        if name == of:
            image_name = f"{name}_0000.nii.gz"
            link(source / "imagesTr" / image_name, root / "imagesTr" / image_name)
    (root / "dataset.json").write_text(json.dumps({**about, "numTraining": len(rows)}))
    pd.DataFrame(rows).to_csv(config.out / "subjects.csv", index=False)
    link(config.study.resolve() / "runs", config.out / "runs")
    return pd.DataFrame(rows)


def by_degradation(rows: pd.DataFrame, subjects: list[str]) -> pd.DataFrame:
    """A row of all cases to one for each kind of degradation, its columns the persons."""
    parts = []
    for how in (CLEAN, *DEGRADED):
        own = rows[KEY].assign(readout=[readout_of(str(name), how) for name in rows.readout])
        dice = rows[[whose(subject, how) for subject in subjects]].set_axis(subjects, axis=1)
        parts.append(pd.concat([own.assign(dice=dice.mean(axis=1)), dice], axis=1))
    return pd.concat(parts)


def main() -> None:
    config = tyro.cli(RobustnessConfig, description=__doc__)
    config.out.mkdir(parents=True, exist_ok=True)
    cases = make_data(config)
    subjects = sorted(cases.loc[(cases.split == "test") & cases["of"].isna(), "subject"].unique())
    names = ("out", "steps", "encoders", "seeds", "readouts", "sizes", "draws")
    own = {name: getattr(config, name) for name in names}
    study = StudyConfig(data=config.out / "data", subjects=config.out / "subjects.csv", **own)
    path = RESULTS / "hippocampus.csv"
    for trained in each_taken(study, (Trained(BASELINE, 0, 0), *few_labels.encoders(study))):
        read_all(study, trained, path, lambda rows: by_degradation(rows, subjects))


if __name__ == "__main__":
    main()
