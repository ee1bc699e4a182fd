"""Label maps never become training scans: by name, by folder, by their voxels; and scans are not taken for them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mdae.data.label_maps import label_map_by_name, label_map_by_voxels
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.sources import list_source
from mdae.seeding import numpy_generator
from tests.conftest import COARSE

MAPS = """
labelsTr/BRATS_001.nii.gz  labelsTs/la_003.nii.gz  Labels/A0001.mha  labels_Tr/x.nii  train_labels/x.nii.gz
s0000/segmentations/liver.nii.gz  s0000/segmentations/aorta.nii.gz  masks/A0001.nii.gz  gt/case 1.nii.gz
GT/x.nii  gt_segmentations/x.nii.gz  Ground_Truth/x.nii.gz  seg-lungs-LUNA16/1.3.6.nii  manual_masks/P1.nrrd
case_00000/segmentation.nii.gz  segmentation-0.nii  case_00000/instances/kidney_mask.nii.gz
Case00_segmentation.nrrd  s1/mri/aseg.mgz  s1/mri/aparc+aseg.mgz  s1/mri/aparc.a2009s+aseg.mgz
s1/mri/wmparc.mgz  s1/mri/ribbon.mgz  s1/mri/lh.ribbon.mgz  s1/mri/wm.mgz  s1/mri/filled.mgz
s1/mri/aseg.presurf.hypos.mgz  s1/mri/lh.hippoSfLabels-T1.v21.mgz  sub-01/anat/sub-01_mod-T1w_defacemask.nii.gz
sub-01/anat/sub-01_dseg.nii.gz  sub-01/anat/sub-01_label-GM_probseg.nii.gz
sub-01/anat/sub-01_desc-brain_mask.nii.gz  sub-01/anat/sub-01_T1w_brainmask.nii.gz
sub-01/sub-01_space-T1w_label-L_roi.nii  BraTS_3/BraTS_3_seg.nii.gz
BraTS-GLI-00001-000/BraTS-GLI-00001-000-seg.nii.gz  patient001_frame01_gt.nii.gz  ct_train_1001_label.nii.gz
A0001_GT.nii  P1_lesion.nii  P1_lesions_rater2.nii.gz  P1_LesionMask.nii.gz  mask.nii.gz  wmh.nii.gz  P1_ROI.nii
UPENN-GBM-00001_11_segm.nii.gz  OAS1_0001_fseg.nii  A0001_tumor_segmentation.nii.gz  P1_mask_left.nii
prostate/Müller_Label_2.nrrd  T1_pveseg.nii.gz  ADNI_aseg_native.nii  Patient-1/1-LesionSeg-Flair.nii.gz
"""
SCANS = """
imagesTr/BRATS_001.nii.gz  s0000/ct.nii.gz  case_00000/imaging.nii.gz  volume-0.nii  s1/mri/T1.mgz
s1/mri/orig.mgz  s1/mri/norm.mgz  s1/mri/nu.mgz  s1/mri/brainmask.mgz  s1/mri/brain.mgz  s1/mri/rawavg.mgz
s1/mri/orig/001.mgz  s1/mri/brain.finalsurfs.mgz  sub-01/anat/sub-01_T1w.nii.gz
sub-lesion01/anat/sub-lesion01_T1w.nii.gz  sub-mask/anat/sub-mask_FLAIR.nii  sub-seg_ses-1_T1w.nii
lesion_003_T1.nii.gz  lesions/P001/T1.nii.gz  Patients/GTX/T1.nii  masked/A0001_T1.nii.gz  A0001_brain.nii.gz
UNSEG1_T1.nii  segovia/P1_T2.nii.gz  labelle/x.nii
"""


def listed(text: str) -> list[str]:
    """Names that are two blanks or a line apart."""
    return [name for line in text.split("\n") for name in line.split("  ") if name]


@pytest.mark.parametrize("name", listed(MAPS))
def test_names_of_label_maps(name):
    path = Path(name)
    reason = label_map_by_name(path, path.parts[:-1])
    assert reason is not None and reason.startswith("a mask or segmentation by its ")


@pytest.mark.parametrize("name", listed(SCANS))
def test_names_of_scans(name):
    path = Path(name)
    assert label_map_by_name(path, path.parts[:-1]) is None


def labels(number: int, side: int = 40) -> np.ndarray:
    """A background and so many regions, each around a seed; numbered at random, as atlases are."""
    rng = numpy_generator(number, "labels")
    seeds = rng.uniform(6, side - 6, (number, 3))
    places = np.moveaxis(np.indices((side, side, side)), 0, -1).reshape(-1, 3)
    distance = ((places[:, None] - seeds) ** 2).sum(-1)
    numbers = rng.permutation(3 * number)[:number] + 1
    nearest = numbers[distance.argmin(1)]
    inside = ((places - side / 2) ** 2).sum(1) < (side / 2 - 2) ** 2
    return np.where(inside, nearest, 0).reshape(side, side, side).astype(np.float32)


def scan(levels: int, side: int = 40) -> np.ndarray:
    """A noisy head of so many grey values."""
    rng = numpy_generator(levels, "scan")
    place = np.moveaxis(np.indices((side, side, side)), 0, -1) - side / 2
    inside = (place**2).sum(-1) < (side / 2 - 3) ** 2
    smooth = 0.5 + 0.2 * np.sin(place[..., 0] / 5) * np.cos(place[..., 1] / 7)
    grey = np.clip(smooth + rng.normal(0, 0.05, smooth.shape), 0, 1)
    return np.where(inside, 1 + np.floor(grey * (levels - 2)), 0).astype(np.float32)


def sparse() -> np.ndarray:
    """A mask of a single voxel."""
    mask = np.zeros((40, 40, 40), np.float32)
    mask[3, 4, 5] = 1
    return mask


VOXELS = {
    "a mask": lambda: (labels(6) > 0).astype(np.float32),
    "a mask of 255": lambda: (labels(6) > 0) * np.float32(255),
    "a mask of one voxel": sparse,
    "three labels": lambda: labels(3),
    "eight labels, one negative": lambda: labels(8) - 1,
    "thirty labels": lambda: labels(30),
    "a hundred labels": lambda: labels(100, 60),
    "labels as float, rescaled": lambda: labels(4) * np.float32(1 / 255),
    "nested tissues": lambda: np.round(np.clip(8 - np.abs(np.indices((40, 40, 40)) - 20).max(0) / 2.5, 0, 8)),
}


@pytest.mark.parametrize("kind", VOXELS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_voxels_of_label_maps(kind, order):
    data = np.asarray(VOXELS[kind](), dtype=np.float32, order=order)
    reason = label_map_by_voxels(data)
    assert reason is not None and f"{len(np.unique(data))} distinct" in reason


@pytest.mark.parametrize("levels", [12, 32, 64, 256, 4000])
def test_voxels_of_scans_of_few_grey_values(levels):
    assert label_map_by_voxels(scan(levels)) is None
    assert label_map_by_voxels(scan(levels) - 1024) is None, "as CT"


def test_smooth_quantised_scans_are_scans():
    """Neighbours are mostly equal, but where they are not, they are one grey value apart."""
    x, y, z = np.indices((60, 60, 60)) / 60
    grey = np.floor(60 * (0.5 + 0.3 * np.sin(5 * x) * np.cos(4 * y) + 0.1 * z)).astype(np.float32)
    assert 16 < len(np.unique(grey)) < 256 and label_map_by_voxels(grey) is None


def test_real_scans_and_their_label_maps(real_scans):
    for name in ("hippocampus", "lidc-nodules"):
        for path in sorted((real_scans / name / "labelsTr").iterdir())[:10]:
            assert label_map_by_voxels(np.asarray(nib.load(path).dataobj, np.float32)), path
        for path in sorted((real_scans / name / "imagesTr").iterdir())[:40]:
            assert label_map_by_voxels(np.asarray(nib.load(path).dataobj, np.float32)) is None, path
    for path in (real_scans / "ms-longitudinal").rglob("*.nii.gz"):
        assert label_map_by_voxels(np.asarray(nib.load(path).dataobj, np.float32)) is None, path


def tree(root: Path) -> Path:
    for name, data in (
        ("A0001/T1.nii.gz", scan(4000)),
        ("A0002/T1.nii.gz", labels(5)),
        ("labelsTr/A.nii.gz", labels(4)),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, np.diag([4.0, 4.0, 4.0, 1.0])), root / name)
    return root


def test_a_label_map_by_any_name_is_set_aside_until_it_is_wanted(tmp_path):
    config = {"source": tree(tmp_path / "in"), "store": tmp_path / "s", "preprocessing": COARSE, "workers": 1}
    for _ in range(2):  # it is remembered
        summary = prepare(PrepareConfig(**config))
        reasons = {Path(row.path).parent.name: row for row in summary.set_aside}
        assert summary.prepared + summary.unchanged == 1 and reasons.keys() == {"A0002", "labelsTr"}
        assert "5 distinct whole numbers" in reasons["A0002"].reason
        assert all("--keep-labels" in row.mend for row in reasons.values())
    summary = prepare(PrepareConfig(**config, keep_labels=True))
    assert (summary.prepared, summary.unchanged, summary.set_aside) == (2, 1, [])


def test_keep_labels_takes_them_by_name_and_folder(tmp_path):
    root = tree(tmp_path)
    assert len(list_source(root).entries) == 2 and len(list_source(root, keep_labels=True).entries) == 3
