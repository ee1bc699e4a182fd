"""The wheel, built as a release is and installed in an empty environment, does what README says of the core.

It needs a package index, and room for torch. `make test-all` runs it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pandas as pd
import pytest

from tests.test_readme import write_masks

ROOT = Path(__file__).parent.parent
SOURCES = ("src", "README.md", "LICENSE", "pyproject.toml")
HEAVY = ("blosc2", "matplotlib", "nilearn", "nnunetv2", "pyarrow", "pydicom", "tensorboard")
NO_INDEX = ("No matching distribution", "NewConnectionError", "Temporary failure in name resolution")

pytestmark = pytest.mark.slow


def run(*command: object, where: Path, status: int = 0) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MDAE_TEST_DATA")}
    surroundings = {**kept, "HOME": str(where), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], cwd=where, capture_output=True, text=True, env=surroundings)
    if status == 0 and done.returncode and any(word in done.stderr for word in NO_INDEX):
        pytest.skip("no package index within reach")
    assert done.returncode == status, f"{command}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built with `python -m build`, and checked as an index would."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("build")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    run(sys.executable, "-m", "build", ".", where=folder)
    run(sys.executable, "-m", "twine", "check", "--strict", *(folder / "dist").iterdir(), where=folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bin_folder(wheel, tmp_path_factory) -> Path:
    """The programs of an environment that holds the wheel and what it depends on, as the tests' own versions."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder / "venv", with_pip=True)
    pip = (folder / "venv" / "bin" / "pip", "install", "-q", "-c", ROOT / "constraints.txt")
    run(*pip, "torch==2.13.0", where=folder)
    run(*pip, wheel, where=folder)
    return folder / "venv" / "bin"


def test_it_embeds_fits_and_predicts(bin_folder, cohort, model, tmp_path):
    there = run(bin_folder / "pip", "list", "--format=freeze", where=tmp_path)
    assert not [line for line in there.splitlines() if line.split("==")[0].lower() in HEAVY]
    mdae, labels = bin_folder / "mdae", cohort / "participants.tsv"
    run(mdae, "embed", model, cohort, "--out", "features.csv", where=tmp_path)
    assert len(pd.read_csv(tmp_path / "features.csv")) == 24
    few = ("--folds", "3", "--repeats", "1")
    contrast = ("--scans", cohort, "--contrasts", "FLAIR", "--label", "lesion")
    run(mdae, "fit", model, labels, "fitted", *contrast, *few, where=tmp_path)
    run(mdae, "predict", "fitted", cohort, "--out", "predictions.csv", where=tmp_path)
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == 12


def test_it_segments_without_pictures_and_says_so(bin_folder, cohort, model, tmp_path):
    write_masks(cohort, tmp_path / "masks")
    scans = ("--scans", cohort, "--contrasts", "T1w", "--few.steps", "0")
    run(bin_folder / "mdae", "fit", model, "masks", "segmenter", *scans, where=tmp_path)
    said = run(bin_folder / "mdae", "predict", "segmenter", cohort, "--out", "segmented", where=tmp_path)
    assert "no pictures of the masks" in said and "mdae[report]" in said
    assert len(list((tmp_path / "segmented").glob("*.nii.gz"))) == 12


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("prepare", "{cohort}", "store"), "train"),
        (("embed", "{model}", "{cohort}", "--out", "f.parquet"), "parquet"),
        (("synth", "cohort", "--subjects", "1", "--workers", "1"), "synth"),
    ],
)
def test_what_needs_an_extra_names_it(bin_folder, cohort, model, tmp_path, command, extra):
    arguments = [one.format(cohort=cohort, model=model) for one in command]
    said = run(bin_folder / "mdae", *arguments, where=tmp_path, status=2)
    assert f"mdae[{extra}]" in said.splitlines()[-1] and "Traceback" not in said
