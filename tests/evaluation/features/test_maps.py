"""Feature maps lie where the scan's affine says, and regions are pooled over what is labelled and nothing else."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

import mdae
from mdae.data.io import write_nifti
from mdae.data.preprocess import Preprocessing, prepare_scan
from mdae.errors import ConfigError, DataError
from mdae.evaluation.configs import EmbedConfig
from mdae.evaluation.features.embed import embed
from mdae.evaluation.features.maps import embed_regions, native_maps
from tests.data.test_geometry import AFFINES, centre_of_spot, head_with_a_point


class Brightness:
    """A network whose one stage, half as fine as its input, is the mean intensity of eight voxels and its negative."""

    patch = (32, 32, 32)

    def stages(self, windows: torch.Tensor) -> list[torch.Tensor]:
        coarse = torch.nn.functional.avg_pool3d(windows, 2)
        return [torch.cat([coarse, -coarse], dim=1)]


@pytest.mark.parametrize("name", ["LPS", "oblique"])
def test_a_point_is_where_the_affine_says(name):
    scan, spot = head_with_a_point(AFFINES[name])
    prepared = prepare_scan(scan, Preprocessing(spacing_mm=(4.0, 4.0, 4.0)))
    record = prepared.record
    bright, dark = native_maps(Brightness(), prepared.data, record.background, record, 1)
    assert bright.shape == scan.data.shape and np.allclose(bright, -dark, atol=1e-4)
    off = np.abs(centre_of_spot(bright, scan.affine) - spot).max()
    assert off < 2.0, "coarse voxels of 8 mm tell it within a quarter of one"


def test_windows_leave_no_seams():
    volume = np.linspace(0, 1, 80, dtype=np.float32)[:, None, None] * np.ones((80, 48, 32), np.float32)
    found = embed_regions(Brightness(), volume, np.ones(volume.shape, np.int16), 0.0)
    assert found[1] == pytest.approx([0.5, -0.5], abs=0.01)


def test_regions_are_what_is_labelled_and_nothing_else():
    rng = np.random.default_rng(0)
    volume = rng.standard_normal((32, 32, 32)).astype(np.float32)
    labels = np.zeros(volume.shape, np.int16)
    labels[2:10, 2:10, 2:10], labels[20:28, 4:8, 4:8] = 1, 7
    volume[labels == 1] = 3.0
    volume[20:28, 4:8, 4:8] = np.arange(8)[:, None, None]
    found = embed_regions(Brightness(), volume, labels, 0.0)
    assert set(found) == {1, 7} and found[1] == pytest.approx([3, -3]) and found[7][0] == pytest.approx(3.5)
    top = embed_regions(Brightness(), volume, labels, 0.0, pool="both")
    assert top[7] == pytest.approx([3.5, -3.5, 6.5, -0.5])
    volume[labels == 0] += 100
    assert embed_regions(Brightness(), volume, labels, 0.0)[1] == pytest.approx(found[1])


@pytest.fixture()
def labelled(cohort, tmp_path) -> tuple[Path, Path]:
    """Two scans, and label maps of both under their names: 1 in the left half, 4 in the right one."""
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    scans.mkdir()
    masks.mkdir()
    for path in sorted(cohort.rglob("*_T1w.nii.gz"))[:2]:
        (scans / path.name).write_bytes(path.read_bytes())
        image = nib.load(path)
        labels = np.where(image.get_fdata() > 0, 4, 0).astype(np.uint8)
        labels[: len(labels) // 2] //= 4
        write_nifti(masks / path.name.replace(".nii.gz", "_dseg.nii.gz"), labels, image.affine)
    return scans, masks


def run(model: Path, scans: Path, out: Path, **options: object):
    return embed(EmbedConfig(model=str(model), scans=(scans,), out=out, workers=1, **options))


def test_the_command_writes_maps_on_the_scans_grid_and_a_row_a_region(model, labelled, tmp_path):
    scans, masks = labelled
    out = tmp_path / "features.csv"
    run(model, scans, out, regions=masks, maps=(2,))
    table = pd.read_csv(out)
    assert table["region"].tolist() == [1, 4, 1, 4] and set(table["contrast"]) == {"T1w:1", "T1w:4"}
    (first, _) = sorted((tmp_path / "features_maps").iterdir())
    image, scan = nib.load(first), nib.load(sorted(scans.iterdir())[0])
    widths = mdae.load(model).widths
    assert image.shape == (*scan.shape, widths[1]) and np.allclose(image.affine, scan.affine)
    own = mdae.load(model).maps(sorted(scans.iterdir())[0], 2)
    assert np.array_equal(np.moveaxis(image.get_fdata(dtype=np.float32), -1, 0), own)
    assert "region" not in run(model, scans, out).table


def test_what_does_not_do_has_its_line(model, labelled, store, tmp_path):
    scans, masks = labelled
    out = tmp_path / "f.csv"
    with pytest.raises(ConfigError, match="no stage 9"):
        run(model, scans, out, maps=(9,))
    with pytest.raises(ConfigError, match="encoders of ours"):
        embed(EmbedConfig(model="histogram", scans=(scans,), out=out, maps=(1,)))
    with pytest.raises(DataError, match="no label map there"):
        run(model, scans, out, regions=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"a store.*give the raw scans"):
        run(model, store, out, maps=(1,))
    first, second = sorted(masks.iterdir())
    second.unlink()
    aside = run(model, scans, out, regions=masks).set_aside
    assert "0 label maps of its name" in aside["reason"].item()
    image = nib.load(first)
    write_nifti(first, np.asarray(image.dataobj)[1:], image.affine)
    with pytest.raises(DataError, match="on another grid than its scan"):
        run(model, scans, out, regions=masks)
