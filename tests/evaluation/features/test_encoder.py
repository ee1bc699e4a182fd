"""Embedding and reconstructing raw scans with a saved model, and loading models strictly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from nibabel.affines import apply_affine
from safetensors.torch import load_file, save_file
from scipy import ndimage

import mdae
from mdae.data.catalogue import ScanEntry
from mdae.data.io import read_scan
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import Preprocessing
from mdae.errors import ConfigError, DataError, ModelError, ScanError
from mdae.evaluation.configs import EmbedConfig, ReconstructConfig
from mdae.evaluation.features.embed import embed
from mdae.evaluation.features.encoder import Encoder, resolve_device
from mdae.evaluation.features.extractors import open_extractor
from mdae.evaluation.features.sliding_window import map_windows, window_starts
from mdae.inference.reconstruct import reconstruct
from mdae.inference.restore import restore
from mdae.networks.saved import SavedModel, load_model, save_model
from mdae.notices import collected
from mdae.seeding import numpy_generator
from tests.conftest import COARSE
from tests.data.test_geometry import AFFINES, centre_of_spot, head_with_a_point
from tests.data.test_sources import openmind


def first_scan(cohort: Path) -> Path:
    return cohort / "sub-A0001" / "anat" / "sub-A0001_FLAIR.nii.gz"


@pytest.mark.parametrize("window", ["slide", "centre", "whole"])
def test_a_raw_scan_of_any_size_is_embedded(model, cohort, window):
    encoder = mdae.load(model)
    features = encoder.embed(first_scan(cohort), window=window)
    assert features.shape == (encoder.num_features,) and features.dtype == np.float32
    assert np.isfinite(features).all() and features.std() > 0


def test_pooling_both_is_means_then_maxima(model, cohort):
    encoder = mdae.load(model)
    mean, top, both = (encoder.embed(first_scan(cohort), pool=pool) for pool in ("mean", "max", "both"))
    assert np.array_equal(both, np.concatenate([mean, top])) and (top > mean).all()


def test_whole_is_the_encoder_at_t_0_on_the_padded_volume(model, cohort):
    encoder, saved = mdae.load(model), load_model(model)
    prepared = encoder.prepare(first_scan(cohort))
    x = torch.from_numpy(prepared.data)[None, None]
    pads = [(-side) % 8 for side in x.shape[2:]]
    x = torch.nn.functional.pad(x, (0, pads[2], 0, pads[1], 0, pads[0]), value=prepared.record.background)
    with torch.no_grad():
        stages = saved.network.stages(x, torch.zeros(1))
    expected = torch.cat([stage.mean(dim=(0, 2, 3, 4)) for stage in stages]).numpy()
    np.testing.assert_allclose(encoder.embed(first_scan(cohort), window="whole"), expected, atol=1e-5)


def test_windows_cover_the_volume_evenly():
    starts = window_starts((40, 16, 10), (16, 16, 16))
    assert sorted({s[0] for s in starts}) == [0, 12, 24]
    assert {s[1] for s in starts} == {0} and {s[2] for s in starts} == {-3}
    assert window_starts((40, 16, 10), (16, 16, 16), centre_only=True) == [(12, 0, -3)]


@pytest.mark.parametrize("shape", [(30, 21, 9), (8, 8, 8), (17, 40, 12)])
def test_windows_put_together_give_the_volume_back(shape):
    volume = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    again = map_windows(lambda w: torch.cat([w, 2 * w], 1), volume[None], (8, 8, 8), value=0.0)
    torch.testing.assert_close(again, torch.stack([volume, 2 * volume]))


def test_orientation_does_not_matter(model, cohort, tmp_path):
    image = nib.load(first_scan(cohort))
    turned = image.as_reoriented(nib.orientations.axcodes2ornt("PSL"))
    nib.save(turned, tmp_path / "turned.nii.gz")
    encoder = mdae.load(model)
    np.testing.assert_allclose(
        encoder.embed(tmp_path / "turned.nii.gz"), encoder.embed(first_scan(cohort)), atol=1e-5
    )


def test_many_scans_to_a_table_and_bad_ones_set_aside(model, cohort, tmp_path):
    source = tmp_path / "scans"
    shutil.copytree(cohort / "sub-A0001", source / "sub-A0001")
    (source / "broken.nii.gz").write_bytes(b"\x1f\x8b broken")
    out = tmp_path / "features.csv"
    embed(EmbedConfig(model=model, scans=(source,), out=out))
    table = pd.read_csv(out, dtype={"subject": str})
    assert list(table["scan"]) == ["sub-A0001_FLAIR", "sub-A0001_T1w"] and set(table["subject"]) == {"A0001"}
    single = mdae.load(model).embed(first_scan(cohort))
    np.testing.assert_allclose(table.filter(regex=r"^f\d+$").iloc[0], single, atol=1e-5)
    aside = pd.read_csv(tmp_path / "features.csv.set_aside.csv")
    assert len(aside) == 1 and "gzip" in aside["reason"][0]


def test_a_store_gives_what_its_raw_scans_give(model, cohort, store, tmp_path):
    from_store = embed(EmbedConfig(model=model, scans=(store,), out=tmp_path / "a.parquet")).table
    from_raw = embed(EmbedConfig(model=model, scans=(cohort,), out=tmp_path / "b.parquet")).table
    assert list(from_store["scan"]) == list(from_raw["scan"])
    pattern = r"^f\d+$"
    np.testing.assert_allclose(
        from_store.filter(regex=pattern), from_raw.filter(regex=pattern), atol=5e-3
    )  # float16 in the store


def test_an_overlap_with_pre_training_is_said(model, cohort, tmp_path, caplog):
    embed(EmbedConfig(model=model, scans=(first_scan(cohort),), out=tmp_path / "a.csv"))
    assert "1 of 1 scans were in this model's pre-training" in caplog.text


def test_nothing_to_embed_is_one_line(model, tmp_path):
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(DataError, match="none of 1 scan could be embedded"):
        embed(EmbedConfig(model=model, scans=(tmp_path,), out=tmp_path / "a.csv"))
    with pytest.raises(ScanError):
        mdae.load(model).embed(tmp_path / "broken.nii.gz")
    with pytest.raises(DataError, match="no scans given"):
        embed(EmbedConfig(model=model, scans=(), out=tmp_path / "a.csv"))
    with pytest.raises(ConfigError, match=r"in .csv, .tsv or .parquet"):
        EmbedConfig(model=model, scans=(tmp_path,), out=tmp_path / "a.xlsx")


def test_a_model_of_several_contrasts_refuses_single_scans(model):
    saved = load_model(model)
    config = saved.network.config.__class__(in_channels=2, features=(4, 8), blocks=(1, 1))
    network = saved.network.__class__(config)
    several = SavedModel(network, saved.contract, saved.patch, saved.objective)
    with pytest.raises(ConfigError, match="2 contrasts"):
        Encoder(several)
    with pytest.raises(ConfigError, match="1 contrasts for a model of 2"):
        restore(several, np.zeros((16, 16, 16), np.float32), 0.5, 0.5, 0)


def test_a_scan_unlike_those_of_training_is_warned_of(model, cohort, tmp_path, caplog):
    mdae.load(model).prepare(first_scan(cohort))
    assert not caplog.text
    image = nib.load(first_scan(cohort))
    middle = image.slicer[9:17, 9:17, 6:14]
    saved = load_model(model)
    saved.patch = (32, 32, 32)
    Encoder(saved).prepare(_saved(middle, tmp_path / "small.nii.gz"))
    assert "hardly fills the model's window" in caplog.text and "25% of a side" in caplog.text
    saved.contract = Preprocessing(spacing_mm=(1.0, 1.0, 1.0))
    Encoder(saved).prepare(first_scan(cohort))
    assert "much coarser" in caplog.text and "8.0 times" in caplog.text


def _saved(image: nib.Nifti1Image, path: Path) -> Path:
    nib.save(image, path)
    return path


def test_devices(model):
    assert mdae.load(model, device="auto").num_features
    with pytest.raises(ConfigError, match="no device"):
        mdae.load(model, device="abacus")
    assert resolve_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="no device"):
        resolve_device("abacus")


# -- reconstruct ------------------------------------------------------------------------------------------------


def load(path: Path) -> np.ndarray:
    return nib.load(path).get_fdata(dtype=np.float32)


def test_reconstruct_writes_on_the_scans_own_grid(model, cohort, tmp_path):
    source = read_scan(first_scan(cohort))
    (result,) = reconstruct(
        ReconstructConfig(model=model, scan=first_scan(cohort), out=tmp_path, mask_ratio=0.6, t=0.2)
    )
    for name in ("clean", "corrupted", "inpainted", "denoised", "restored", "mask"):
        image = nib.load(tmp_path / f"{name}.nii.gz")
        assert image.shape == source.data.shape
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-4)
    head = ndimage.binary_erosion(source.data > 0)
    error = np.abs(load(tmp_path / "clean.nii.gz") - source.data)[head]
    assert np.median(error) < 0.02 * source.data.max(), "intensities did not come back"
    about = json.loads((tmp_path / "reconstruction.json").read_text())
    assert about["window"] == list(load_model(model).patch)
    assert about["sigma"] == pytest.approx(result.sigma) and 0 < about["masked_share"] < 1
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_inpainted_keeps_the_visible_and_denoised_leaves_out_the_masked(model, cohort, tmp_path):
    (r,) = reconstruct(ReconstructConfig(model=model, scan=first_scan(cohort), out=tmp_path))
    assert np.array_equal(r.inpainted[~r.mask], r.clean[~r.mask])
    assert np.array_equal(r.inpainted[r.mask], r.restored[r.mask])
    assert np.array_equal(r.denoised[~r.mask], r.restored[~r.mask]) and not r.denoised[r.mask].any()
    assert not r.corrupted[r.mask].any() and not np.array_equal(r.corrupted[~r.mask], r.clean[~r.mask])


def test_the_same_seed_gives_the_same_and_no_corruption_is_none(model, cohort, tmp_path):
    options = {"model": model, "scan": first_scan(cohort), "out": tmp_path}
    one, same, other = (reconstruct(ReconstructConfig(**options, seed=seed))[0] for seed in (1, 1, 2))
    assert np.array_equal(one.corrupted, same.corrupted) and not np.array_equal(
        one.corrupted, other.corrupted
    )
    (none,) = reconstruct(ReconstructConfig(**options, mask_ratio=0.0, t=0.0))
    assert np.array_equal(none.corrupted, none.clean) and none.errors()["mse_masked"] is None


@pytest.mark.parametrize("name", [pytest.param("RAS", marks=pytest.mark.slow), "LPS", "oblique"])
def test_a_point_comes_back_within_half_a_voxel(model, tmp_path, name):
    scan, spot = head_with_a_point(AFFINES[name])
    fine = load_model(model)
    fine.contract, fine.patch = Preprocessing(spacing_mm=(2.0, 2.0, 2.0)), (64, 64, 64)
    save_model(tmp_path / "model", fine)
    nib.save(nib.Nifti1Image(scan.data, scan.affine), tmp_path / "scan.nii.gz")
    reconstruct(
        ReconstructConfig(model=tmp_path / "model", scan=tmp_path / "scan.nii.gz", out=tmp_path / "out")
    )
    back = load(tmp_path / "out" / "clean.nii.gz")
    voxels = apply_affine(np.linalg.inv(scan.affine), [spot, centre_of_spot(back, scan.affine)])
    assert np.abs(voxels[0] - voxels[1]).max() < 0.5


def test_a_mask_of_the_users_own_is_taken_and_another_grid_refused(model, cohort, tmp_path):
    source = read_scan(first_scan(cohort))
    mask = np.zeros(source.data.shape, dtype=np.uint8)
    mask[: mask.shape[0] // 2] = 1
    nib.save(nib.Nifti1Image(mask, source.affine), tmp_path / "mask.nii.gz")
    options = {"model": model, "scan": first_scan(cohort), "out": tmp_path / "out"}
    reconstruct(ReconstructConfig(**options, mask=tmp_path / "mask.nii.gz"))
    written = load(tmp_path / "out" / "mask.nii.gz")
    head = source.data > 0
    assert (written[head] == mask[head]).mean() > 0.95
    nib.save(nib.Nifti1Image(mask[:-9], source.affine), tmp_path / "mask.nii.gz")
    with pytest.raises(DataError, match="another grid"):
        reconstruct(ReconstructConfig(**options, mask=tmp_path / "mask.nii.gz"))
    nib.save(nib.Nifti1Image(np.zeros_like(mask), source.affine), tmp_path / "mask.nii.gz")
    with pytest.raises(ScanError, match="every voxel is 0"):
        reconstruct(ReconstructConfig(**options, mask=tmp_path / "mask.nii.gz"))
    mask[:] = 0
    mask[0, 0, 0] = 1  # a corner that the crop leaves out
    nib.save(nib.Nifti1Image(mask, source.affine), tmp_path / "mask.nii.gz")
    with pytest.raises(DataError, match="nothing within the head"):
        reconstruct(ReconstructConfig(**options, mask=tmp_path / "mask.nii.gz"))


def test_masks_of_a_source_are_kept_when_embedding(model, tmp_path):
    """A scan of OpenMind is prepared for the encoder as it was for the store: same head, defaced voxels background."""
    source = openmind(tmp_path / "openmind")
    prepare(PrepareConfig(source=source, store=tmp_path / "store", preprocessing=COARSE, workers=1))
    raw, stored = (
        embed(EmbedConfig(model=model, scans=(scans,), out=tmp_path / f"{n}.parquet")).table
        for n, scans in enumerate((source, tmp_path / "store"))
    )
    features = [name for name in raw.columns if name[1:].isdigit()]
    assert raw["scan"].tolist() == stored["scan"].tolist() and raw[features].notna().all(axis=None)
    np.testing.assert_allclose(raw[features], stored[features], atol=2e-2)


# -- saved models -----------------------------------------------------------------------------------------------


def test_a_model_folder_is_read_back_whole(model, tmp_path):
    saved = load_model(model)
    save_model(tmp_path / "again", saved)
    again = load_model(tmp_path / "again")
    assert (again.contract, again.patch, again.objective) == (saved.contract, saved.patch, saved.objective)
    for name, value in saved.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])
    next(saved.network.parameters()).data[:] = torch.nan
    with pytest.raises(ModelError, match=r"spoilt: 1 of its \d+ weights are not finite"):
        save_model(tmp_path / "spoilt", saved)
    assert not (tmp_path / "spoilt").exists()
    assert saved.objective["name"] == "mdae" and len(saved.provenance["subjects"]["hashes"]) == 12


def test_models_that_do_not_do_have_one_line(model, tmp_path):
    with pytest.raises(ModelError, match=r"no config.json and model.safetensors"):
        load_model(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    config = json.loads((copy / "config.json").read_text())
    wider = {**config, "network": {**config["network"], "features": [8, 16, 32, 65]}}
    (copy / "config.json").write_text(json.dumps(wider))
    with pytest.raises(ModelError, match=r"of another shape, e\.g\."):
        load_model(copy)
    (copy / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(ModelError, match="format 1"):
        load_model(copy)
    (copy / "config.json").write_text(json.dumps({**config, "patch": None}))
    with pytest.raises(ModelError, match="does not describe"):
        load_model(copy)
    shutil.copy(model / "config.json", copy / "config.json")
    spoilt = {name: value + torch.inf for name, value in load_file(copy / "model.safetensors").items()}
    save_file(spoilt, copy / "model.safetensors")
    with pytest.raises(ModelError, match="weights are not finite"):
        load_model(copy)
    shutil.copy(model / "model.safetensors", copy / "model.safetensors")
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="damaged weights"):
        load_model(copy)


def test_the_table_notes_what_is_outside_and_many_alike_are_one_line(model, tmp_path, caplog):
    folder = tmp_path / "scans"
    folder.mkdir()
    noise = numpy_generator(0, "noise").normal(500, 50, (4, 20, 20, 20)).astype(np.float32)
    for number, data in enumerate(noise):
        nib.save(nib.Nifti1Image(data, np.diag([8.0, 8.0, 8.0, 1.0])), folder / f"A000{number}.nii")
    config = EmbedConfig(model=model, scans=(folder,), out=tmp_path / "f.csv", device="cpu")
    with collected():
        table = embed(config).table
    assert all("a volume like noise" in told for told in table["warnings"])
    assert list(table.columns[:9])[-2:] == ["warnings", "f0000"]
    lines = [record.message for record in caplog.records if "like noise" in record.message]
    assert len(lines) == 1 and "4 scans alike" in lines[0]


def test_an_untrained_network_of_a_models_make_sees_scans_as_that_one(model, cohort):
    saved = load_model(model)
    first, again, other = (
        open_extractor(f"untrained:{model}{seed}", device="cpu") for seed in ("", ":0", ":1")
    )
    assert first.encoder.contract == saved.contract and first.encoder.patch == saved.patch
    assert first.identity == again.identity != other.identity and first.name == "untrained-run"
    features = [
        one.features(one.prepare(ScanEntry("", "", "", "", first_scan(cohort)))) for one in (first, other)
    ]
    trained = mdae.load(model).embed(first_scan(cohort))
    assert features[0].shape == trained.shape and not np.allclose(features[0], features[1])
    assert not np.allclose(features[0], trained)
