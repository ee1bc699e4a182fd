"""What there is to embed: equal names of other people stay apart, a scan counts once, label maps not at all."""

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
from mdae.errors import ConfigError, DataError
from mdae.evaluation.configs import EmbedConfig
from mdae.evaluation.features.embed import embed
from mdae.evaluation.features.extractors import open_extractor
from mdae.evaluation.features.histogram import Histogram
from mdae.networks.saved import load_model


def embedded(model, out, *sources, **options) -> pd.DataFrame:
    config = EmbedConfig(model=model, scans=sources, out=out / "f.parquet", workers=1, **options)
    return embed(config).table.set_index("path")


def sites(cohort, root, *names) -> list[Path]:
    """The same file names of other people."""
    people = sorted(path for path in cohort.glob("sub-*"))
    for person, name in zip(people, names, strict=False):
        (root / name / "sub-01").mkdir(parents=True)
        shutil.copy(next(person.rglob("*_T1w.nii.gz")), root / name / "sub-01" / "sub-01_T1w.nii.gz")
    return [root / name for name in names]


def test_two_sites_with_equal_ids_stay_apart(model, cohort, tmp_path, caplog):
    table = embedded(model, tmp_path, *sites(cohort, tmp_path, "siteA", "siteB"))
    assert sorted(table["subject"]) == ["siteA/01", "siteB/01"] and table["scan"].is_unique
    assert "kept apart (siteA/01, siteB/01)" in caplog.text
    files = sorted(tmp_path.rglob("*_T1w.nii.gz"))
    assert sorted(embedded(model, tmp_path, *files)["subject"]) == ["siteA/01", "siteB/01"], (
        "and file by file"
    )


def test_folders_of_contrasts_are_of_the_same_people(model, cohort, tmp_path):
    table = embedded(model, tmp_path, *sites(cohort, tmp_path, "IXI-T1", "IXI-T2"))
    assert list(table["subject"]) == ["01", "01"] and table["scan"].is_unique


def test_a_scan_that_is_given_twice_counts_once_and_label_maps_not_at_all(model, cohort, tmp_path):
    (site,) = sites(cohort, tmp_path, "siteA")
    scan = next(site.rglob("*.nii.gz"))
    image = nib.load(scan)
    mask = (image.get_fdata() > 0).astype(np.uint8)
    for name in ("sub-01_mask.nii.gz", "sub-01_T2w.nii.gz"):  # one by its name, one by its voxels
        nib.save(nib.Nifti1Image(mask, image.affine), scan.with_name(name))
    table = embedded(model, tmp_path, site, site / "sub-01")
    assert list(table.index) == [str(scan)]
    result = embed(EmbedConfig(model=model, scans=(site, scan), out=tmp_path / "g.csv", workers=1))
    aside = pd.read_csv(tmp_path / "g.csv.set_aside.csv")
    assert len(aside) == len(result.set_aside) == 3
    assert sorted(aside["reason"]) == [
        "a mask or segmentation by its name",
        "a mask or segmentation by its voxels: 2 distinct whole numbers",
        "given twice",
    ]
    result = embed(
        EmbedConfig(model=model, scans=(site,), out=tmp_path / "g.csv", workers=1, keep_labels=True)
    )
    assert not any("mask" in reason for reason in result.set_aside["reason"])


def test_equal_warnings_of_many_scans_are_one_line(model, cohort, tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr("mdae.data.outside.COARSE", 1.5)
    for number, path in enumerate(sorted(cohort.rglob("*_T1w.nii.gz"))[:3]):
        image = nib.load(path)
        coarse = image.get_fdata(dtype=np.float32)[::2, ::2, ::2]
        nib.save(
            nib.Nifti1Image(coarse, image.affine @ np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / f"A{number}.nii"
        )
    main(["embed", str(model), str(tmp_path), "--out", str(tmp_path / "f.csv"), "--workers", "1"])
    assert "3 subjects, from the file names, e.g. A0 (A0.nii)" in capsys.readouterr().out
    coarse = [line for line in caplog.messages if "coarser" in line]
    assert len(coarse) == 1 and coarse[0].startswith("3 scans alike") and "A0.nii" in coarse[0]


def test_scans_of_a_store_are_warned_of_as_raw_ones_are(model, cohort, store, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("mdae.data.outside.SMALL", 9.0)  # every field of view is too small
    for source in (cohort, store):
        result = embed(EmbedConfig(model=model, scans=(source,), out=tmp_path / "f.csv", workers=1))
        assert all("a field of view that hardly fills" in told for told in result.table["warnings"])
    assert "hardly fills" in caplog.text


def test_any_encoder_embeds_and_options_of_ours_are_refused_for_others(model, cohort, store, tmp_path):
    config = EmbedConfig(model="histogram", scans=(cohort,), out=tmp_path / "h.csv", workers=1)
    table = embed(config).table
    scan = table["path"][0]
    own = mdae.load("histogram").embed(scan)
    assert len(table) == 24 and np.allclose(table.loc[0, "f0000":].to_numpy(dtype=float), own)
    assert set(table["window"]) == {""} == set(table["pool"])
    like = open_extractor(f"histogram:{model}")
    assert isinstance(like, Histogram) and like.contract == load_model(model).contract
    assert not np.allclose(like.embed(scan), own), "of scans prepared as the model's"
    with pytest.raises(ConfigError, match="would not heed them"):
        embed(replace(config, pool="max"))
    with pytest.raises(DataError, match="not for histogram"):
        embed(replace(config, scans=(store,)))
