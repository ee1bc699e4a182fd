"""Each kind of source, in its own layout on disk: recognised, listed, and clear about what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import blosc2
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from mdae.cli import main
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import NNSSL
from mdae.data.sources import discover, list_source
from mdae.data.store import Store
from mdae.errors import DataError
from mdae.seeding import numpy_generator
from tests.conftest import COARSE
from tests.data.test_dicom import head, write_series


def scans(root: Path, *names: str) -> Path:
    """Small heads in noise-free air, each a little other than the next."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        place = np.moveaxis(np.indices((20, 22, 18)), 0, -1) - np.array([10, 11, 9])
        data = np.where((place**2).sum(-1) < 60, 100.0 + place[..., 0] + number, 0.0).astype(np.float32)
        nib.save(nib.Nifti1Image(data, np.diag([8.0, 8.0, 8.0, 1.0])), root / name)
    return root


def mask(path: Path, inside: tuple[slice, slice, slice]) -> Path:
    data = np.zeros((20, 22, 18), dtype=np.uint8)
    data[inside] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([8.0, 8.0, 8.0, 1.0])), path)
    return path


OPENMIND = (
    "ds000001/sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
    "ds000001/sub-01/ses-1/dwi/sub-01_ses-1_MD_dwi/MD.nii.gz",
    "ds000002/sub-01/anat/sub-01_T2w.nii.gz",
)


def openmind(root: Path) -> Path:
    """OpenMind as `huggingface-cli download` leaves it, its third scan not downloaded."""
    scans(root / "OpenMind", *OPENMIND[:2])
    defaced = "ds000001/sub-01/ses-1/anat/sub-01_ses-1_T1w__anon.nii.gz"
    mask(root / "OpenMind" / defaced, (slice(0, 20), slice(16, 22), slice(0, 9)))
    table = pd.DataFrame(
        {
            "unique_id": ["ds000001_a", "ds000001_b", "ds000002_a"],
            "image_path": OPENMIND,
            "modality": ["T1w", "MD", "T2w"],
            "derived_from": ["", "dwi", ""],
            "anon_mask_path": [defaced, "", ""],
            "anat_mask_path": ["", "", ""],
            "image_quality_score": [1.0, 4.0, 2.0],
        }
    )
    table.to_csv(root / "openneuro_metadata.csv", index=False)
    return root


def nnssl(root: Path, first: str) -> Path:
    """nnssl's list as its documentation has it, one path with an environment variable, one without masks."""
    scans(root / "images", "a.nii.gz", "b.nii.gz")
    images = [
        {
            "name": "sub-1_T1w.nii.gz",
            "modality": "T1w",
            "image_info": {},
            "image_path": first,
            "associated_masks": {"anatomy_mask": str(root / "anat.nii.gz"), "anonymization_mask": None},
        },
        {"name": "sub-1_FLAIR.nii.gz", "modality": "FLAIR", "image_path": str(root / "images" / "b.nii.gz")},
    ]
    mask(root / "anat.nii.gz", (slice(4, 16), slice(5, 17), slice(3, 15)))
    sessions = {"ses-DEFAULT": {"session_id": "ses-DEFAULT", "session_info": None, "images": images}}
    subjects = {"sub-1": {"subject_id": "sub-1", "subject_info": {"age": 5}, "sessions": sessions}}
    dataset = {"dataset_index": "ds1", "dataset_info": {}, "name": None, "subjects": subjects}
    collection = {"collection_index": 1, "collection_name": "Dataset001_X", "datasets": {"ds1": dataset}}
    (root / "pretrain_data.json").write_text(json.dumps(collection))
    return root


def test_openmind_as_it_lies_on_the_hub(tmp_path):
    listing = list_source(openmind(tmp_path))
    assert listing.kind == "OpenMind"
    found = [(e.scan_id, e.subject, e.session, e.contrast, e.quality) for e in listing.entries]
    assert found == [
        ("ds000001__sub-01__ses-1__sub-01_ses-1_MD_dwi__MD", "ds000001/01", "1", "MD", 4.0),
        ("ds000001__sub-01__ses-1__sub-01_ses-1_T1w", "ds000001/01", "1", "T1w", 1.0),
    ]
    (missing,) = listing.left_out
    assert missing.path.endswith("sub-01_T2w.nii.gz") and "no such file" in missing.reason
    by_table = list_source(tmp_path / "openneuro_metadata.csv")
    assert by_table.entries == listing.entries


def test_modality_and_quality_filter(tmp_path):
    openmind(tmp_path)
    listing = list_source(tmp_path, max_quality_score=3.0)
    assert [e.contrast for e in listing.entries] == ["T1w"]
    assert any("quality score 4 is above 3" in row.reason for row in listing.left_out)
    listing = list_source(tmp_path, contrasts=("MD",))
    assert [e.contrast for e in listing.entries] == ["MD"]
    assert any("contrast T1w is not wanted" in row.reason for row in listing.left_out)
    with pytest.raises(DataError, match=r"no scan to take there .*3 left out"):
        list_source(tmp_path, contrasts=("PET",))


def test_nnssls_raw_list(tmp_path, monkeypatch):
    nnssl(tmp_path, "$nnssl_raw/images/a.nii.gz")
    with pytest.raises(DataError, match=r"begin with \$nnssl_raw, which is not set"):
        list_source(tmp_path)
    monkeypatch.setenv("nnssl_raw", str(tmp_path))
    for source in (tmp_path, tmp_path / "pretrain_data.json"):
        listing = list_source(source)
        assert listing.kind == "nnssl's raw list"
        flair, t1w = listing.entries
        assert (t1w.scan_id, t1w.subject) == ("ds1__sub-1__ses-DEFAULT__sub-1_T1w", "ds1/1")
        assert (t1w.contrast, flair.contrast, flair.anatomy_mask) == ("T1w", "FLAIR", None)
        assert t1w.path == tmp_path / "images" / "a.nii.gz" and t1w.anatomy_mask == tmp_path / "anat.nii.gz"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_manifest(tmp_path, suffix):
    scans(tmp_path / "x", "a.nii.gz", "b.nii.gz")
    rows = {
        "path": ["x/a.nii.gz", str(tmp_path / "x" / "b.nii.gz")],
        "subject": ["01", None],
        "contrast": ["T1w", ""],
    }
    table, path = pd.DataFrame(rows), tmp_path / f"list{suffix}"
    if suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    found = [(e.scan_id, e.subject, e.contrast, e.path.name) for e in discover(path)]
    assert found == [("01__a", "01", "T1w", "a.nii.gz"), ("b", "b", "", "b.nii.gz")]


def test_a_manifest_may_name_a_series_by_its_folder_or_a_slice(tmp_path):
    scans(tmp_path, "a.nii.gz")
    for name in ("d", "e", "short"):
        write_series(tmp_path / name, head(), np.diag([4.0, 4.0, 4.0, 1.0]))
    for path in sorted((tmp_path / "short").iterdir())[3:]:
        path.unlink()
    (tmp_path / "notes.txt").write_text("hello")
    rows = [
        "a.nii.gz,A,T2w",
        "d,Müller,",
        "e/IM0007,B 2,FLAIR",
        "e/IM0008,B 2,FLAIR",
        "short,C,",
        "notes.txt,D,",
    ]
    (tmp_path / "x.csv").write_text("path,subject,contrast\n" + "\n".join(rows))
    listing = list_source(tmp_path / "x.csv")
    found = sorted((e.subject, e.contrast, len(e.slices)) for e in listing.entries)
    assert found == [("A", "T2w", 0), ("B 2", "FLAIR", 36), ("Müller", "T1w", 36)]
    reasons = {row.reason for row in listing.left_out}
    assert reasons == {
        "of a series that is listed already, of B 2",
        "series 3 t1 mprage sag: only 3 slices",
        "neither a scan of a format that is read nor DICOM",
    }
    assert all(row.mend or "slices" in row.reason for row in listing.left_out)


def not_json(folder: Path) -> Path:
    (folder / "pretrain_data.json").write_text("{")
    return folder


def other_json(folder: Path) -> Path:
    (folder / "pretrain_data.json").write_text('{"datasets": {"a": {"subjects": 3}}}')
    return folder


def table_of(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


BAD = {
    "not nnssl's list of images": not_json,
    "not nnssl's list": other_json,
    "no column 'path'; it has file": lambda f: table_of(f, "x.csv", "file\na\n"),
    "the file is empty": lambda f: table_of(f, "x.csv", ""),
    "a quality score of 'good'": lambda f: table_of(f, "x.csv", "path,quality\na.nii,good\n"),
    "no column 'image_path'": lambda f: table_of(f, "openneuro_metadata.csv", "a\n1\n"),
    "names no subject": lambda f: table_of(f, "openneuro_metadata.csv", "image_path\nx.nii.gz\n"),
    "neither a scan nor a list of scans": lambda f: table_of(f, "x.txt", "hello"),
    "no such file or folder": lambda f: f / "nowhere",
    "no scan to take there": lambda f: table_of(f, "x.csv", "path\nmissing.nii\n"),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_sources_have_one_clear_line(tmp_path, said):
    with pytest.raises(DataError, match=said) as caught:
        list_source(BAD[said](tmp_path))
    assert "\n" not in str(caught.value) and caught.value.mend


def test_a_dry_run_says_what_and_why_not(tmp_path, capsys):
    scans(tmp_path / "in", "sub-1/anat/sub-1_T1w.nii.gz", "sub-1/anat/sub-1_desc-brain_mask.nii.gz")
    (tmp_path / "in" / "derivatives").mkdir()
    main(["prepare", str(tmp_path / "in"), str(tmp_path / "store"), "--dry-run"])
    said = capsys.readouterr().out
    assert "1 scan of 1 subject would be prepared, 2 left out" in said
    assert "a mask or segmentation by its name" in said and "derivatives of a BIDS tree" in said
    assert not (tmp_path / "store").exists()


def test_defaced_voxels_are_unknown_and_an_anatomy_mask_is_the_head(tmp_path, monkeypatch):
    monkeypatch.setenv("nnssl_raw", str(tmp_path / "n"))
    openmind(tmp_path / "o")
    prepare(PrepareConfig(source=tmp_path / "o", store=tmp_path / "so", preprocessing=COARSE, workers=1))
    store = Store.open(tmp_path / "so")
    whole, defaced = store.scans
    assert whole.unknown == 0 and 0.02 < defaced.unknown < 0.3
    crop = store.read_crop(defaced, (0, 0, 0), defaced.shape)
    assert np.isnan(crop).mean() == pytest.approx(defaced.unknown, abs=1e-6)
    assert np.isfinite(store.read(defaced)).all(), "whoever embeds it sees there what training sees"
    nnssl(tmp_path / "n", "$nnssl_raw/images/a.nii.gz")
    prepare(PrepareConfig(source=tmp_path / "n", store=tmp_path / "sn", preprocessing=COARSE, workers=1))
    opened = Store.open(tmp_path / "sn")
    by_mask = next(scan for scan in opened.scans if scan.contrast == "T1w")
    assert opened.record(by_mask).crop_shape == (14, 14, 14), "the mask's 12 voxels and a voxel of margin"


def test_a_mask_on_another_grid_sets_the_scan_aside(tmp_path):
    scans(tmp_path, "a.nii.gz", "b.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9), dtype=np.uint8), np.eye(4)), tmp_path / "m.nii.gz")
    (tmp_path / "x.csv").write_text("path,anonymisation_mask\na.nii.gz,m.nii.gz\nb.nii.gz,\n")
    summary = prepare(
        PrepareConfig(source=tmp_path / "x.csv", store=tmp_path / "s", preprocessing=COARSE, workers=1)
    )
    assert summary.prepared == 1 and "on another grid" in summary.set_aside[0].reason


def preprocessed_by_nnssl(root: Path) -> dict[str, np.ndarray]:
    """Two volumes as nnssl writes them, one with an anonymisation mask, and its list; the volumes by name."""
    folder = root / "Dataset001_X" / "nnsslPlans_onemmiso" / "Dataset001_X" / "ds1" / "sub-1" / "ses-1"
    folder.mkdir(parents=True)
    volumes, images = {}, []
    for number, name in enumerate(("T1w", "FLAIR")):
        volume = numpy_generator(number, "nnssl").standard_normal((1, 24, 20, 22)).astype(np.float32)
        volume[0, 10:12, 9, 8] = 40.0, -9.0  # a vessel, and what resampling overshoots
        cparams = {"codec": blosc2.Codec.ZSTD, "clevel": 8}
        blosc2.asarray(volume, urlpath=str(folder / f"{name}.b2nd"), cparams=cparams, mode="w")
        defaced = np.zeros(volume.shape, dtype=np.uint8)
        defaced[:, :6, :5] = 1
        blosc2.asarray(defaced, urlpath=str(folder / f"{name}__anon.b2nd"), cparams=cparams, mode="w")
        path = f"$nnssl_preprocessed/{(folder / name).relative_to(root)}"
        masks = {"anatomy_mask": None, "anonymization_mask": f"{path}__anon.b2nd" if number else None}
        about = {"name": f"{name}.nii.gz", "modality": name, "associated_masks": masks}
        images.append({**about, "image_path": f"{path}.b2nd"})
        volumes[name] = volume
    subjects = {"sub-1": {"sessions": {"ses-1": {"images": images}}}}
    collection = {"datasets": {"ds1": {"dataset_index": "ds1", "subjects": subjects}}}
    (root / "Dataset001_X" / "pretrain_data__onemmiso.json").write_text(json.dumps(collection))
    return volumes


def test_what_nnssl_has_preprocessed_is_read_in_place(tmp_path):
    volumes = preprocessed_by_nnssl(tmp_path / "np")
    source, store_path = tmp_path / "np" / "Dataset001_X", tmp_path / "store"
    assert prepare(PrepareConfig(source=source, store=store_path, workers=1)).prepared == 2
    assert prepare(PrepareConfig(source=source, store=store_path, workers=1)).unchanged == 2
    store = Store.open(store_path)
    assert store.contract == NNSSL
    assert sum(path.stat().st_size for path in (store_path / "volumes").iterdir()) < 10_000, (
        "nothing is copied"
    )
    flair, t1w = store.scans
    assert (t1w.contrast, t1w.shape, t1w.unknown) == ("T1w", (22, 20, 24), 0.0)
    expected = np.clip(volumes["T1w"][0].T, -5, 10).astype(np.float16)  # as what we prepare
    assert np.array_equal(store.read(t1w), expected)
    assert np.array_equal(store.read_crop(t1w, (3, 4, 5), (6, 7, 8)), expected[3:9, 4:11, 5:13])
    beyond = store.read_crop(t1w, (-2, 4, 20), (6, 7, 8))
    assert (beyond[:2] == np.float16(t1w.background)).all()
    crop = store.read_crop(flair, (0, 0, 0), flair.shape)
    assert np.isnan(crop[:, :5, :6]).all() and np.isfinite(crop[:, 5:]).all()
    assert flair.unknown == pytest.approx(0.25 * 0.25)


def test_a_damaged_volume_of_nnssls_is_set_aside(tmp_path):
    preprocessed_by_nnssl(tmp_path / "np")
    source = tmp_path / "np" / "Dataset001_X"
    next(source.rglob("T1w.b2nd")).write_bytes(b"no volume")
    summary = prepare(PrepareConfig(source=source, store=tmp_path / "store", workers=1))
    assert summary.prepared == 1 and "not a volume of nnssl's" in summary.set_aside[0].reason
