"""The same scans in every layout that people have them in become the same volumes.

Real scans where MDAE_TEST_DATA names some, else made-up ones on the ICBM template.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pandas as pd
import pytest

from mdae.cli import main
from mdae.data.io import read_scan
from mdae.data.preprocess import Preprocessing, prepare_scan
from mdae.data.store import Store
from tests.data.test_dicom import write_series

SPACING = (4.0, 4.0, 4.0)


@dataclass(frozen=True)
class Original:
    """One scan as it lies in its own folder."""

    subject: str
    contrast: str
    path: Path


@pytest.fixture(scope="module")
def originals(cohort) -> list[Original]:
    """Two contrasts of a first subject and one of a second."""
    folder = os.environ.get("MDAE_TEST_DATA")
    root = Path(folder) / "ms-longitudinal" if folder else cohort
    people = sorted(path for path in root.glob("sub-*") if path.is_dir())[:2]
    found = []
    for person, contrasts in zip(people, (("T1w", "FLAIR"), ("T1w",)), strict=True):
        for contrast in contrasts:
            path = next(iter(sorted(person.rglob(f"*_{contrast}.nii.gz"))))
            found.append(Original(person.name.removeprefix("sub-"), contrast, path))
    return found


def folder(root: Path, scans: list[Original], write: Callable[[Path, Path], None], suffix: str) -> Path:
    for scan in scans:
        path = root / f"sub-{scan.subject}" / f"sub-{scan.subject}_{scan.contrast}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(scan.path, path)
    return root


def as_nifti(source: Path, path: Path) -> None:
    nib.save(nib.load(source), path)


def as_mgz(source: Path, path: Path) -> None:
    image = nib.load(source)
    nib.save(nib.MGHImage(image.get_fdata(dtype=np.float32), image.affine), path)


def as_nrrd(source: Path, path: Path) -> None:
    image = nib.load(source)
    lps = np.diag([-1, -1, 1]) @ image.affine[:3]
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:, :3].T,
        "space origin": lps[:, 3],
        "encoding": "raw",
    }
    nrrd.write(str(path), image.get_fdata(dtype=np.float32), header)


def bids(root: Path, scans: list[Original]) -> Path:
    names = []
    for scan in scans:
        path = (
            root
            / f"sub-{scan.subject}"
            / "ses-1"
            / "anat"
            / f"sub-{scan.subject}_ses-1_{scan.contrast}.nii.gz"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(scan.path, path)
        names.append(f"sub-{scan.subject}")
    (root / "derivatives" / "masks").mkdir(parents=True)
    pd.DataFrame({"participant_id": [*dict.fromkeys(names), "sub-nobody"]}).to_csv(
        root / "participants.tsv", sep="\t", index=False
    )
    return root


def openmind(root: Path, scans: list[Original]) -> Path:
    rows = []
    for scan in scans:
        name = f"ds000001/sub-{scan.subject}/ses-1/anat/sub-{scan.subject}_ses-1_{scan.contrast}.nii.gz"
        (root / "OpenMind" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(scan.path, root / "OpenMind" / name)
        rows.append({"image_path": name, "modality": scan.contrast, "image_quality_score": 1.5})
    pd.DataFrame(rows).to_csv(root / "openneuro_metadata.csv", index=False)
    return root


def nnssl(root: Path, scans: list[Original]) -> Path:
    subjects: dict[str, dict] = {}
    for scan in scans:
        session = {"session_id": "ses-1", "session_info": None, "images": []}
        person = subjects.setdefault(
            f"sub-{scan.subject}",
            {"subject_id": f"sub-{scan.subject}", "subject_info": {}, "sessions": {"ses-1": session}},
        )
        image = {"name": scan.path.name, "modality": scan.contrast, "image_path": str(scan.path)}
        person["sessions"]["ses-1"]["images"].append(image)
    dataset = {"dataset_index": "ds1", "dataset_info": {}, "name": None, "subjects": subjects}
    root.mkdir()
    (root / "pretrain_data.json").write_text(
        json.dumps({"collection_index": 1, "datasets": {"ds1": dataset}})
    )
    return root


def manifest(root: Path, scans: list[Original]) -> Path:
    root.mkdir()
    rows = [{"path": str(scan.path), "subject": scan.subject, "contrast": scan.contrast} for scan in scans]
    pd.DataFrame(rows).to_parquet(root / "list.parquet")
    return root / "list.parquet"


def dicom(root: Path, scans: list[Original]) -> Path:
    for number, scan in enumerate(scans):
        image = nib.load(scan.path)
        data = image.get_fdata(dtype=np.float32)
        whole = np.round(data * (4000 / data.max())).astype(np.uint16)
        description = {"T1w": "t1_mprage", "FLAIR": "t2_flair"}[scan.contrast]
        tags = {"PatientID": scan.subject, "SeriesDescription": description, "SeriesNumber": number}
        write_series(root / f"S{number}", whole, image.affine, **tags)
    return root


LAYOUTS: dict[str, Callable[[Path, list[Original]], Path]] = {
    "nii": lambda root, scans: folder(root, scans, as_nifti, ".nii"),
    "mgz": lambda root, scans: folder(root, scans, as_mgz, ".mgz"),
    "nrrd": lambda root, scans: folder(root, scans, as_nrrd, ".nrrd"),
    "BIDS": bids,
    "OpenMind": openmind,
    "nnssl": nnssl,
    "manifest": manifest,
    "DICOM": dicom,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_volumes(originals, tmp_path, layout, capsys):
    source = LAYOUTS[layout](tmp_path / "in", originals)
    main(
        [
            "prepare",
            str(source),
            str(tmp_path / "store"),
            "--workers",
            "1",
            "--spacing-mm",
            *map(str, SPACING),
        ]
    )
    assert "3 scans prepared, 0 there already, 0 set aside" in capsys.readouterr().out
    store = Store.open(tmp_path / "store")
    found = {(scan.subject.split("/")[-1], scan.contrast): scan for scan in store.scans}
    assert len(found) == 3 and len({scan.subject for scan in store.scans}) == 2
    for original in originals:
        scan = found[original.subject, original.contrast]
        plain = prepare_scan(read_scan(original.path), Preprocessing(spacing_mm=SPACING))
        assert scan.shape == plain.data.shape
        np.testing.assert_allclose(store.record(scan).affine, plain.affine, atol=2e-3)
        error = np.abs(store.read(scan).astype(np.float32) - plain.data)
        assert error.max() < (0.05 if layout == "DICOM" else 0.01), "float16, and 12 bits in DICOM"
    main(
        [
            "prepare",
            str(source),
            str(tmp_path / "store"),
            "--workers",
            "1",
            "--spacing-mm",
            *map(str, SPACING),
        ]
    )
    assert "0 scans prepared, 3 there already" in capsys.readouterr().out


def test_a_participant_without_a_scan_is_named(originals, tmp_path, capsys):
    main(["prepare", str(bids(tmp_path / "in", originals)), str(tmp_path / "s"), "--dry-run"])
    said = capsys.readouterr().out
    assert "sub-nobody: a participant without a scan" in said and "derivatives of a BIDS tree" in said
