"""The blocks of README and docs, run as they stand, one after the other, in a folder with the scans they speak of."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from mdae.data.synth import SynthConfig, synthesise
from mdae.networks import PRESETS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {
    "README.md": ["segment", "pretrain", "use", "python"],
    "docs/predict.md": ["table", "masks", "python"],
    "docs/tutorials/classification.md": ["scans", "encoder", "fit", "predict", "python"],
    "docs/tutorials/few-labels.md": ["people", "commands", "figure"],
    "docs/tutorials/segmentation.md": ["scans", "encoder", "fit", "predict", "python"],
    "docs/data.md": ["look", "split", "options", "store"],
    "docs/objectives.md": ["choose", "own"],
    "docs/evaluation.md": ["own"],
    "docs/sweep.md": ["sweep"],
    "docs/training.md": ["one", "several", "plan", "begin", "longer"],
}
BLOCK = re.compile(r"<!-- test: (\w+) -->\n```(\w+)\n(.*?)```", re.DOTALL)

# A thousand steps take long; the test makes a few, and the small cohort has fewer subjects than five folds want.
SMALL = "--network tiny --steps 3 --batch 2 --patch 16 16 16 --accelerator cpu"
SHORTER = {
    "--steps 1000 --lr 4e-3": "--steps 3 --lr 4e-3",
    "--train-sizes 1 2 4 8 16 32 all": "--train-sizes 1 2 --draws 1",
    "run --network resenc-l --batch 4 --steps 250000": f"run {SMALL}",
    "--nnodes 4 --nproc-per-node 8 --node-rank $NODE --master-addr first-machine --master-port 29500": (
        "--standalone --nproc-per-node 2"
    ),
    "run --network resenc-l --batch 64 --steps 250000": f"run-of-two {SMALL}",
    "run --network resenc-l --batch 32 --steps 250000 --dry-run": f"planned {SMALL} --dry-run",
    "run --network resenc-l --init FROM": f"begun {SMALL} --init demo/run/model",
    "run --steps 1000 --extend 500 2000": f"run {SMALL} --extend 2 2",
    "run --steps 1000 --extend 500": f"run {SMALL} --extend 2",
    "mdae prepare scans store  ": "mdae prepare scans store --spacing-mm 4 4 4  ",  # at 1 mm, windows are thousands
    "steps: 1000, batch: 4}": "steps: 2, batch: 2, patch: [16, 16, 16]}",
    "mdae pretrain store run2 --steps 1000": "mdae pretrain store run2 --steps 3 --batch 2 --patch 16 16 16",
    "--steps 1000": "--steps 3 --batch 2 --patch 16 16 16",
    "--label diagnosis": "--label diagnosis --folds 3",
    "cohort fitted --label lesion": "cohort fitted --label lesion --folds 3 --repeats 1",
    "--network tiny --patch 32 32 32 --steps 300": "--steps 3 --batch 2 --patch 16 16 16",
    "--subjects 60 --contrasts FLAIR --spacing-mm 3": "--subjects 12 --contrasts FLAIR --spacing-mm 8",
    "--subjects 40 --contrasts FLAIR --spacing-mm 3": "--subjects 12 --contrasts FLAIR --spacing-mm 8",
    "--subjects 8 --contrasts FLAIR --spacing-mm 3": "--subjects 2 --contrasts FLAIR --spacing-mm 8",
    "--spacing-mm 3 3 3": "--spacing-mm 8 8 8",
    "segmenter --scans scans": "segmenter --scans scans --few.steps 0 --few.points 300",
    "segmenter --scans cohort": "segmenter --scans cohort --few.steps 0",
}
SLOW = (
    "docs/evaluation.md",
    "docs/objectives.md",
    "docs/predict.md",
    "docs/sweep.md",  # each of its runs is a process of its own
    "docs/tutorials/classification.md",
    "docs/tutorials/few-labels.md",
    "docs/tutorials/segmentation.md",
    "docs/training.md",
)


def write_masks(scans: Path, masks: Path) -> None:
    """What is bright in four scans, in two halves, as masks of the scans' names."""
    masks.mkdir()
    for path in sorted(scans.glob("*/anat/*_T1w.nii.gz"))[:4]:
        image = nib.load(path)
        data = image.get_fdata()
        bright = (data > np.percentile(data, 85)).astype(np.uint8)
        bright[: len(bright) // 2] *= 2
        nib.save(nib.Nifti1Image(bright, image.affine), masks / path.name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, store) -> Path:
    """A folder as the README's reader has it: scans, labels, masks of four, one scan, and the demo's model."""
    folder = tmp_path_factory.mktemp("readme")
    scans = synthesise(
        SynthConfig(out=folder / "scans", subjects=12, contrasts=("T1w",), spacing_mm=8.0, workers=1)
    )
    people = pd.read_csv(scans / "participants.tsv", sep="\t")
    labels = pd.DataFrame({"subject": people["participant_id"], "diagnosis": people["lesion"]})
    labels.to_csv(folder / "labels.csv", index=False)
    shutil.copy(scans / "sub-0001" / "anat" / "sub-0001_T1w.nii.gz", folder / "scan.nii.gz")
    write_masks(scans, folder / "masks")
    shutil.copytree(model, folder / "demo" / "run" / "model")
    shutil.copytree(store, folder / "prepared")
    return folder


def marks(page: str) -> list[pytest.MarkDecorator]:
    """Each page on whatever process is free; the long ones are not of `make test`."""
    return [pytest.mark.xdist_group(page), *([pytest.mark.slow] if page in SLOW else [])]


@pytest.mark.parametrize("page", [pytest.param(page, marks=marks(page)) for page in PAGES])
def test_every_block_runs(folder, page, request):
    blocks = BLOCK.findall((ROOT / page).read_text())
    assert [name for name, _, _ in blocks] == PAGES[page]
    for name in ("run", "store", "cohort"):  # each page begins anew
        shutil.rmtree(folder / name, ignore_errors=True)
    if page == "docs/tutorials/few-labels.md":
        real = request.getfixturevalue("real_scans") / "hippocampus"
        (folder / "Dataset004_Hippocampus").symlink_to(real.resolve())
    if page == "docs/training.md":  # which begins where scans are prepared
        shutil.copytree(folder / "prepared", folder / "store")
    bin_folder = Path(sys.executable).parent
    for name, language, text in blocks:
        for wanted, short in SHORTER.items():
            text = text.replace(wanted, short)
        command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euc", text]
        path = f"{bin_folder}:/usr/local/bin:/usr/bin:/bin"
        kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        surroundings = {
            **kept,
            "PATH": path,
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
        }  # tiny: as in conftest
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=surroundings)
        assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"
    if page == "README.md":
        assert (folder / "features.csv").exists() and (folder / "restored" / "picture.png").exists()


def test_the_tables_are_true():
    for name, preset in PRESETS.items():
        network = preset.new()
        parts = {key: network.part_of(key) for key, _ in network.named_parameters()}
        parameters = sum(p.numel() for key, p in network.named_parameters() if parts[key] != "time")
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"{parameters / 1e6:.1f} M" in row and f"{preset.patch[0]}³" in row


@pytest.mark.parametrize("page", PAGES)
def test_what_it_points_to_is_there(page):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target
