"""Models of several contrasts: labels and masks of whole sessions, some of which lack a contrast."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import mdae
from mdae.cli import main
from mdae.data.catalogue import ScanEntry
from mdae.data.preprocess import Preprocessing
from mdae.data.synth import SynthConfig, synthesise
from mdae.errors import DataError, ScanError
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.features.session import session_entry
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.evaluation.segment.volumes import labelled, on_mask
from mdae.evaluation.statistics.overlap import dice
from mdae.networks import preset
from mdae.networks.saved import SavedModel, load_model, save_model
from mdae.seeding import torch_generator
from tests.conftest import COARSE, name_people

THREE = ("T1w", "T2w", "FLAIR")
READOUT = FewLabelOptions(steps=0, points=100)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory) -> Path:
    """Twelve people of three contrasts, with labels and masks; the third lacks FLAIR, the fourth has all but T1w."""
    out = tmp_path_factory.mktemp("sessions") / "bids"
    synthesise(SynthConfig(out=out, subjects=12, spacing_mm=8.0, workers=1))
    (out / "sub-0003" / "anat" / "sub-0003_FLAIR.nii.gz").unlink()
    (out / "sub-0004" / "anat" / "sub-0004_T1w.nii.gz").unlink()
    return name_people(out)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("three") / "model"
    network = preset("tiny").new(torch_generator(0, "weights"), in_channels=3)
    save_model(folder, SavedModel(network, COARSE, (16, 16, 16), channels=THREE))
    return folder


@pytest.fixture(scope="module")
def fitted(model, sessions, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("fitted") / "fitted"
    options = ["--label", "lesion", "--folds", "3", "--repeats", "1", "--workers", "1"]
    main(["fit", str(model), str(sessions), str(out), "--cache", str(out.parent / "cache"), *options])
    return out


@pytest.fixture(scope="module")
def masked(model, sessions, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("masked") / "fitted"
    lesions = sessions / "derivatives" / "lesions"
    mdae.fit(model, lesions, out, scans=sessions, few=READOUT, folds=2)
    return out


def files(sessions: Path, name: str) -> dict[str, Path]:
    found = {contrast: sessions / name / "anat" / f"{name}_{contrast}.nii.gz" for contrast in THREE}
    return {contrast: path for contrast, path in found.items() if path.exists()}


def test_labels_are_learnt_and_told_of_sessions(fitted, model, sessions, tmp_path):
    main(["predict", str(fitted), str(sessions), "--out", str(tmp_path / "p.csv"), "--workers", "1"])
    table = pd.read_csv(tmp_path / "p.csv", dtype=str, keep_default_na=False)
    people = pd.read_csv(sessions / "participants.tsv", sep="\t")["participant_id"].str[4:]
    assert sorted(table["subject"]) == sorted(people) and table["path"].str.contains("T2w").all()
    own = mdae.load_fitted(fitted)
    assert own.contrasts == own.channels == THREE and own.about["fitted_on"]["num_rows"] == 12
    assert len(own.about["fitted_on"]["scans"]["hashes"]) == 12 * 3 - 2
    row = table.iloc[0]
    found = own.predict(files(sessions, f"sub-{row['subject']}"))
    assert float(row["probability_1"]) == pytest.approx(found["probability_1"], abs=1e-6)
    features = Encoder(load_model(model)).embed(files(sessions, f"sub-{row['subject']}"))
    assert own.predict_features(features[None])[0]["probability_1"] == pytest.approx(found["probability_1"])
    lacks = dict(zip(table["subject"], table["warnings"], strict=True))
    assert "lacks FLAIR" in lacks[people[2]] and "lacks T1w" in lacks[people[3]]
    assert not any("lacks" in lacks[name] for name in people.drop([2, 3]))
    with pytest.raises(DataError, match="any of them together"):
        own.predict(next(iter(files(sessions, f"sub-{people[0]}").values())))


def test_a_scan_of_no_channel_is_set_aside_and_some_contrasts_may_do(fitted, sessions, tmp_path):
    anat = tmp_path / "new" / "sub-P1" / "anat"
    anat.mkdir(parents=True)
    name = next(path for path in sorted(sessions.glob("sub-*")) if len(files(sessions, path.name)) == 3).name
    shutil.copy(files(sessions, name)["FLAIR"], anat / "sub-P1_FLAIR.nii.gz")
    shutil.copy(files(sessions, name)["T1w"], anat / "sub-P1_PDw.nii.gz")
    main(["predict", str(fitted), str(tmp_path / "new"), "--out", str(tmp_path / "p.csv"), "--workers", "1"])
    (row,) = pd.read_csv(tmp_path / "p.csv").to_dict("records")
    assert "lacks T1w, T2w" in row["warnings"] and "fitted on this very scan" in row["warnings"]
    (aside,) = pd.read_csv(tmp_path / "p.csv.set_aside.csv").to_dict("records")
    assert "PDw, and the model's channels are T1w, T2w, FLAIR" in aside["reason"]


def test_masks_are_learnt_and_written_of_sessions(masked, sessions, tmp_path):
    own = mdae.load_fitted(masked)
    assert own.contrasts == own.channels == THREE and own.segmenter.num_contrasts == 3
    assert own.about["fitted_on"]["num_rows"] == 12 and own.expected["dice"]["value"] > 0.2
    main(["predict", str(masked), str(sessions), "--out", str(tmp_path / "out"), "--workers", "1"])
    table = pd.read_csv(tmp_path / "out" / "predictions.csv", keep_default_na=False)
    assert len(table) == 12 and table["warnings"].str.contains("lacks").sum() == 2
    for row in table[["scan", "mask", "path"]].to_dict("records"):
        mask, scan = nib.load(tmp_path / "out" / row["mask"]), nib.load(row["path"].partition("; ")[0])
        assert mask.shape == scan.shape and np.allclose(mask.affine, scan.affine)
    whole = files(
        sessions, next(path.name for path in sessions.glob("sub-*") if len(files(sessions, path.name)) == 3)
    )
    without = {name: path for name, path in whole.items() if name != "FLAIR"}
    one, other = own.predict(whole), own.predict(without)
    assert np.abs(one.probabilities - other.probabilities).max() > 0.1 and "lacks FLAIR" in other.warnings


def test_a_mask_may_lie_on_any_contrast_of_its_session(model, sessions, tmp_path):
    """FLAIR and the mask that was drawn on it have voxels of their own; the session's grid is T1w's."""
    masks = {path.parts[-3]: path for path in sessions.glob("derivatives/lesions/*/anat/*_mask.nii.gz")}
    name = next(
        n for n in sorted(masks) if len(files(sessions, n)) == 3 and nib.load(masks[n]).get_fdata().any()
    )
    own, mask = files(sessions, name), nib.load(masks[name])
    encoder = Encoder(load_model(model))
    scans = {contrast: ScanEntry(contrast, "A1", "", contrast, path) for contrast, path in own.items()}
    scans["FLAIR"] = replace(scans["FLAIR"], path=finer(own["FLAIR"], tmp_path / "flair.nii.gz"))
    entry, fine = session_entry(scans, THREE), nib.load(finer(masks[name], tmp_path / "mask.nii.gz"))
    session = encoder.read(entry)
    found = []
    for image in (mask, fine):
        values = np.asarray(image.dataobj).round().astype(np.int16)
        found.append(labelled("A1", on_mask(session, entry, values, image.affine), values).labels)
    assert found[0].any() and np.array_equal(*found)
    with pytest.raises(ScanError, match=r"T1w\+T2w\+FLAIR on another grid than the mask"):
        on_mask(session, entry, values[1:], fine.affine)


def finer(path: Path, target: Path) -> Path:
    """The same with voxels of half the width, each of which has the value of the one that it lies in."""
    image = nib.load(path)
    data = np.asarray(image.dataobj).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    half = np.diag([0.5, 0.5, 0.5, 1.0])
    half[:3, 3] = -0.25
    nib.save(nib.Nifti1Image(data, image.affine @ half), target)
    return target


def test_labels_that_contradict_each_other_within_a_session_are_told(model, sessions, tmp_path):
    rows = [
        (path, path.parent.parent.name, number % 2)
        for number, path in enumerate(sorted(sessions.glob("sub-*/anat/*.nii.gz")))
    ]
    pd.DataFrame(rows, columns=["path", "subject", "lesion"]).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=r"scans of one session of .* with different labels"):
        mdae.fit(model, tmp_path / "t.csv", tmp_path / "out", label="lesion", scans=sessions)


@pytest.mark.slow
def test_real_lesions_of_three_contrasts(real_scans, tmp_path):
    """Two people with multiple sclerosis, skull-stripped: what was learnt of both is found again in one."""
    contract = Preprocessing(spacing_mm=(2.0, 2.0, 2.0))
    network = preset("tiny").new(torch_generator(0, "weights"), in_channels=3)
    save_model(tmp_path / "model", SavedModel(network, contract, (48, 48, 48), channels=THREE))
    scans, lesions = real_scans / "ms-cross", real_scans / "ms-cross" / "derivatives" / "lesions"
    few = replace(READOUT, points=2000)
    own = mdae.fit(tmp_path / "model", lesions, tmp_path / "fitted", scans=scans, few=few, folds=2)
    assert own.about["fitted_on"]["num_rows"] == 2
    main(["predict", str(tmp_path / "fitted"), str(scans), "--out", str(tmp_path / "out")])
    table = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype=str)
    assert len(table) == 2 and not table["warnings"].str.contains("lacks").any()
    found = nib.load(tmp_path / "out" / table["mask"][1])
    (truth,) = (lesions / "sub-19").rglob("*.nii.gz")
    assert dice(found.get_fdata() > 0, nib.load(truth).get_fdata() > 0) > 0.3
