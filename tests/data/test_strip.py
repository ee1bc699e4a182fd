"""Skull stripping: the programs are called as their command lines want it; what they mask is all that is left."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mdae.data import strip
from mdae.data.catalogue import ScanEntry
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import Preprocessing
from mdae.data.workers import prepare_entry
from mdae.errors import DataError, ScanError

# Stand-ins with the interfaces of HD-BET 2 and FreeSurfer's SynthStrip: the brain is what is brighter than 150.
STAND_IN = """#!{python}
import argparse, nibabel as nib, numpy as np
parser = argparse.ArgumentParser()
parser.add_argument("-i", required=True)
{options}
given = parser.parse_args()
image = nib.load(given.i)
mask = (image.get_fdata() > {threshold}).astype(np.uint8)
nib.save(nib.Nifti1Image(mask, image.affine), {made})
"""
HD_BET = {
    "options": "parser.add_argument('-o', required=True)\n"
    "parser.add_argument('-device', default='cuda')\n"
    "parser.add_argument('--disable_tta', action='store_true')\n"
    "parser.add_argument('--save_bet_mask', action='store_true', required=True)\n"
    "parser.add_argument('--no_bet_image', action='store_true')",
    "made": "given.o[:-7] + '_bet.nii.gz'",
}
SYNTHSTRIP = {
    "options": "parser.add_argument('-m', required=True)\nparser.add_argument('--gpu', action='store_true')",
    "made": "given.m",
}
PROGRAMS = {"hd-bet": ("hd-bet", HD_BET), "synthstrip": ("mri_synthstrip", SYNTHSTRIP)}


def install(folder: Path, tool: str, threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    name, parts = PROGRAMS[tool]
    program = folder / name
    program.parent.mkdir()
    program.write_text(STAND_IN.format(python=sys.executable, threshold=threshold, **parts))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def scan(tmp_path) -> Path:
    """A bright brain (200 and more) in a skull of 100, in air of 3."""
    x, y, z = np.indices((40, 40, 40))
    radius = np.sqrt((x - 20) ** 2 + (y - 20) ** 2 + (z - 20) ** 2)
    data = np.where(radius < 10, 200 + x, np.where(radius < 16, 100, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.diag([5.0, 5.0, 5.0, 1.0])), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


@pytest.mark.parametrize("tool", PROGRAMS)
def test_the_brain_alone_is_left(scan, tmp_path, monkeypatch, tool):
    install(tmp_path / "bin", tool, 150, monkeypatch)
    entry = ScanEntry("a", "a", "", "", scan)
    contract = Preprocessing(spacing_mm=(5.0, 5.0, 5.0), strip=tool, margin_mm=0.0)
    prepared = prepare_entry(entry, contract)
    assert prepared.record.shape == (19, 19, 19), "the box of the brain"
    assert prepared.record.mean == pytest.approx(220, abs=2), "no skull in the mean"
    assert prepared.data[0, 0, 0] == pytest.approx(prepared.record.background, abs=1e-4)
    assert prepared.record.background == -5.0, "air, far below the brain"
    again = Preprocessing.from_dict(contract.to_dict())
    assert again == contract and Preprocessing.from_dict({"spacing_mm": [1, 1, 1]}).strip == "none"


def test_no_brain_and_no_mask_are_said(scan, tmp_path, monkeypatch):
    entry = ScanEntry("a", "a", "", "", scan)
    install(tmp_path / "one", "hd-bet", 900, monkeypatch)
    with pytest.raises(ScanError, match="hd-bet finds no brain"):
        prepare_entry(entry, Preprocessing(strip="hd-bet"))
    (tmp_path / "two").mkdir()
    broken = tmp_path / "two" / "mri_synthstrip"
    broken.write_text("#!/bin/sh\necho 'ERROR: no licence file' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'two'}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ScanError, match=r"no brain mask of it \(exit status 1: ERROR: no licence file\)"):
        prepare_entry(entry, Preprocessing(strip="synthstrip"))


def test_a_tool_that_fails_is_not_held_against_the_scan(scan, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "mri_synthstrip"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'Error: no memory on the GPU' >&2\nexit 1\n")
    program.chmod(0o755)
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{path}")
    source = tmp_path / "in" / scan.name
    source.parent.mkdir()
    scan.rename(source)
    contract = Preprocessing(spacing_mm=(5.0, 5.0, 5.0), strip="synthstrip")
    config = PrepareConfig(source=source.parent, store=tmp_path / "s", preprocessing=contract, workers=1)
    assert "no memory on the GPU" in prepare(config).set_aside[0].reason
    monkeypatch.setenv("PATH", path)
    install(tmp_path / "mended", "synthstrip", 150, monkeypatch)
    assert prepare(config).prepared == 1, "the same command tries it again"


def test_the_content_is_the_scans_whatever_is_stripped(scan, tmp_path, monkeypatch):
    install(tmp_path / "bin", "hd-bet", 150, monkeypatch)
    entry = ScanEntry("a", "a", "", "", scan)
    plain, stripped = (prepare_entry(entry, Preprocessing(strip=tool)) for tool in ("none", "hd-bet"))
    assert plain.record.content == stripped.record.content


@pytest.mark.parametrize(("said", "expected"), [("GPU 0: NVIDIA", True), ("NVIDIA-SMI has failed", False)])
def test_a_driver_without_a_gpu_is_none(tmp_path, monkeypatch, said, expected):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    strip._has_gpu.cache_clear()
    assert strip._has_gpu() is expected
    strip._has_gpu.cache_clear()


@pytest.mark.parametrize("tool", PROGRAMS)
def test_a_tool_that_is_not_installed_stops_at_once(scan, tmp_path, monkeypatch, tool):
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    config = PrepareConfig(
        source=scan, store=tmp_path / "store", preprocessing=Preprocessing(strip=tool), workers=1
    )
    with pytest.raises(DataError, match=r"is not installed, and --strip"):
        prepare(config)
