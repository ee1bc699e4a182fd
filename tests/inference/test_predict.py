"""New scans to predictions: the same by file, by folder and after a kill; what fails is named and the others go on."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mdae
from mdae import notices
from mdae.errors import DataError, ModelError
from mdae.inference.config import FitConfig, PredictConfig
from mdae.inference.encoders import BUNDLED
from mdae.inference.fit import fit
from mdae.inference.predict import predict
from tests.inference.small import clinic, config, write_tables


@pytest.fixture(scope="module")
def fitted(cohort, model, tmp_path_factory) -> Path:
    """A folder with a clinic's scans in `archive`, their labels, and what was fitted on them in `fitted`."""
    folder = tmp_path_factory.mktemp("clinic")
    clinic(cohort, folder)
    fit(
        FitConfig(
            encoder=str(model),
            labels=folder / "labels.csv",
            label="lesion",
            out=folder / "fitted",
            folds=3,
            repeats=1,
            bundle=True,
            cache=folder / "cache",
            workers=1,
        )
    )
    return folder


def say(folder: Path, *scans: Path, **changes: object) -> pd.DataFrame:
    options = {"model": str(folder / "fitted"), "out": folder / "p.csv", "workers": 1, **changes}
    return predict(PredictConfig(scans=scans or (folder / "archive",), **options)).table


def test_a_folder_is_predicted_as_each_scan_alone_is(fitted):
    table = say(fitted)
    model = mdae.load_fitted(fitted / "fitted")
    one = model.predict(table["path"][3])
    assert len(table) == 12 and table["path"].str.endswith(" T1.nii.gz").all()
    assert table["class"][3] == one["class"] and table["probability_1"][3] == one["probability_1"]
    assert (table["probability_0"] + table["probability_1"]).round(9).eq(1).all()
    assert pd.read_csv(fitted / "p.csv", dtype={"class": str})["class"].tolist() == table["class"].tolist()
    assert table["warnings"].str.contains("fitted on this very scan").all()


def test_the_bundled_encoder_is_enough_and_another_is_refused(fitted, model, tmp_path):
    alone = shutil.copytree(fitted / "fitted", tmp_path / "elsewhere")
    scan = next((fitted / "archive").iterdir())
    said = mdae.load_fitted(alone).predict(scan).row()
    shutil.rmtree(alone / BUNDLED)
    assert mdae.load_fitted(alone, encoder=model).predict(scan).row() == said
    with pytest.raises(ModelError, match="say where it is with --encoder"):
        mdae.load_fitted(alone).predict(scan)
    with pytest.raises(ModelError, match="not the encoder that was fitted on"):
        mdae.load_fitted(alone, encoder="untrained:tiny").predict(scan)


def test_scans_that_fail_are_named_and_the_others_go_on(fitted, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    whole, *_ = (fitted / "archive").iterdir()
    shutil.copy(whole, scans / "whole.nii.gz")
    (scans / "cut.nii.gz").write_bytes(whole.read_bytes()[:3000])
    done = predict(
        PredictConfig(model=str(fitted / "fitted"), scans=(scans,), out=tmp_path / "out", workers=1)
    )
    assert done.out == tmp_path / "out" / "predictions.csv" and len(done.table) == 1
    aside = pd.read_csv(tmp_path / "out" / "predictions.csv.set_aside.csv")
    assert aside["path"].tolist() == [str(scans / "cut.nii.gz")] and "gzip" in aside["reason"][0]
    shutil.copy(whole, scans / "cut.nii.gz")  # mended
    assert len(say(fitted, scans, out=tmp_path / "out")) == 2
    assert not (tmp_path / "out" / "predictions.csv.set_aside.csv").exists()
    (scans / "whole.nii.gz").write_bytes(b"")
    with pytest.raises(DataError, match="nothing could be predicted of 1 scan"):
        say(fitted, scans / "whole.nii.gz", out=tmp_path / "none")


def test_what_is_unlike_is_told(fitted, tmp_path):
    import nibabel as nib

    image = nib.load(next((fitted / "archive").iterdir()))
    noise = np.random.default_rng(0).gamma(1.0, 50.0, image.shape).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, image.affine), tmp_path / "noise.nii.gz")
    said = mdae.load_fitted(fitted / "fitted").predict(tmp_path / "noise.nii.gz")
    assert said.as_far == pytest.approx(1 / 13) and said.distance > 1
    assert any("further from the scans" in note for note in said.warnings)


def test_nothing_is_done_twice_and_a_changed_scan_is(fitted, tmp_path, monkeypatch):
    scans = shutil.copytree(fitted / "archive", tmp_path / "scans")
    first = say(fitted, scans, out=tmp_path / "out")
    looked: list[object] = []
    real = mdae.inference.fitted.FittedModel.prepare
    monkeypatch.setattr(mdae.inference.fitted.FittedModel, "prepare", lambda *a: looked.append(a) or real(*a))
    pd.testing.assert_frame_equal(say(fitted, scans, out=tmp_path / "out"), first)
    assert not looked
    os.utime(sorted(scans.iterdir())[0], ns=(1, 1))
    pd.testing.assert_frame_equal(say(fitted, scans, out=tmp_path / "out"), first)
    assert len(looked) == 1
    journal = next((tmp_path / "out").glob(".*.jsonl"))
    journal.write_text(journal.read_text()[:-40])  # killed amid a line
    pd.testing.assert_frame_equal(say(fitted, scans, out=tmp_path / "out"), first)
    assert len(looked) == 2
    about = json.loads((fitted / "fitted" / "fitted.json").read_text())
    shutil.copytree(fitted / "fitted", tmp_path / "other")
    (tmp_path / "other" / "fitted.json").write_text(json.dumps({**about, "note": "another"}))
    say(fitted, scans, out=tmp_path / "out", model=str(tmp_path / "other"))
    assert len(looked) == 14


@pytest.mark.slow
def test_a_hundred_scans_killed_and_started_again_end_equal(fitted, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    for index in range(100):
        shutil.copy(sorted((fitted / "archive").iterdir())[index % 12], scans / f"P{index:03d}.nii.gz")
    undisturbed = say(fitted, scans, out=tmp_path / "whole.csv")
    command = [sys.executable, "-m", "mdae", "predict", str(fitted / "fitted"), str(scans), "--workers", "1"]
    journal = tmp_path / ".killed.csv.done.jsonl"
    for wanted in (20, 60):
        process = subprocess.Popen([*command, "--out", str(tmp_path / "killed.csv")])
        while not journal.exists() or journal.read_bytes().count(b"\n") < wanted:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed.csv").exists()
    subprocess.run([*command, "--out", str(tmp_path / "killed.csv")], check=True)
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert len(undisturbed) == 100


def test_several_contrasts_stand_side_by_side(cohort, model, tmp_path, caplog):
    options = {"label": "lesion", "folds": 3, "repeats": 1, "cache": tmp_path / "cache", "workers": 1}
    with pytest.raises(DataError, match=r"2 contrasts \(FLAIR, T1w\).*--contrasts"):
        mdae.fit(model, cohort, tmp_path / "out", **options)
    made = mdae.fit(model, cohort, tmp_path / "out", contrasts=("T1w", "FLAIR"), **options)
    assert made.novelty.cloud.mean.size == 2 * made.extractor.encoder.num_features
    with caplog.at_level(logging.WARNING):
        table = predict(
            PredictConfig(model=str(tmp_path / "out"), scans=(cohort,), out=tmp_path / "p.parquet", workers=1)
        ).table
    assert len(table) == 12 and table["path"].str.contains("T1w.*; .*FLAIR").all()
    scans = dict(zip(("T1w", "FLAIR"), table["path"][0].split("; "), strict=True))
    assert made.predict(scans)["class"] == table["class"][0]
    with pytest.raises(DataError, match="T1w, FLAIR of a subject are wanted"):
        made.predict(scans["T1w"])


def test_tables_of_features_are_predicted(tmp_path):
    write_tables(tmp_path, number=30)
    fit(config(tmp_path, "diagnosis", folds=3))
    options = {"model": str(tmp_path / "out"), "out": tmp_path / "p.tsv"}
    table = predict(PredictConfig(scans=(tmp_path / "features.csv",), **options)).table
    assert len(table) == 60 and {"subject", "class", "probability_patient", "distance"} <= set(table)
    pd.read_csv(tmp_path / "features.csv").drop(columns="f0003").to_csv(tmp_path / "less.csv")
    with pytest.raises(DataError, match=r"1 features are missing, e\.g\. f0003"):
        predict(PredictConfig(scans=(tmp_path / "less.csv",), **options))
    with pytest.raises(DataError, match="and this is none"):
        predict(PredictConfig(scans=(tmp_path,), **options))


def test_what_is_told_of_a_scan_is_heard_while_it_is_collected():
    with notices.collected(), notices.hearing() as heard:
        notices.notice("voxels are coarse", "scan.nii.gz")
        with notices.hearing() as inner:
            notices.notice("its field of view is small", "scan.nii.gz")
    assert heard == ["voxels are coarse", "its field of view is small"] and inner == heard[1:]
