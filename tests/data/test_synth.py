"""The made-up cohort: seeded, balanced, and with nothing in it that gives the label away but the lesions."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn import datasets
from scipy import ndimage

from mdae.data.anatomy import TISSUES, load_template
from mdae.data.sources import discover
from mdae.data.synth import SynthConfig, has_lesions, make_subject, synthesise, tissue_labels
from mdae.errors import ConfigError, DataError


def config(out: Path, **changes: object) -> SynthConfig:
    return SynthConfig(out=out, **{"subjects": 4, "spacing_mm": 6.0, "workers": 1, **changes})  # type: ignore[arg-type]


def voxels(out: Path, subject: int, contrast: str) -> np.ndarray:
    name = f"sub-{subject:04d}"
    return np.asarray(nib.load(out / name / "anat" / f"{name}_{contrast}.nii.gz").dataobj)


def lesion_mask(out: Path, subject: int) -> np.ndarray:
    name = f"sub-{subject:04d}"
    path = out / "derivatives" / "lesions" / name / "anat" / f"{name}_label-lesion_mask.nii.gz"
    return np.asarray(nib.load(path).dataobj) > 0


def test_a_bids_tree_with_labels(tmp_path):
    out = synthesise(config(tmp_path / "cohort"))
    entries = discover(out)
    assert len(entries) == 12 and {e.contrast for e in entries} == {"T1w", "T2w", "FLAIR"}
    people = pd.read_csv(out / "participants.tsv", sep="\t")
    assert list(people["participant_id"]) == [f"sub-{k:04d}" for k in range(1, 5)]
    assert people["lesion"].sum() == 2 and ((people["num_lesions"] > 0) == (people["lesion"] == 1)).all()
    affine = nib.load(entries[0].path).affine
    assert nib.aff2axcodes(affine) == ("R", "A", "S") and affine[0, 0] == 6.0
    for person in people.itertuples():
        volume = lesion_mask(out, int(person.participant_id[-4:])).sum() * 6.0**3 / 1000
        assert volume == pytest.approx(person.lesion_volume_ml) and (volume > 0) == (person.lesion == 1)


def middle_mm(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The centre of mass, where the affine says."""
    return np.asarray(nib.affines.apply_affine(affine, ndimage.center_of_mass(volume)))


@pytest.mark.parametrize("spacing", [2.0, 3.7, 6.0])
def test_the_template_lies_in_mni_space_at_any_spacing(spacing):
    template, original = load_template(spacing), datasets.load_mni152_wm_template(resolution=1)
    expected = middle_mm(np.asarray(original.dataobj), original.affine)
    assert np.abs(middle_mm(template.wm, template.affine) - expected).max() < 0.2


def test_subjects_lie_in_mni_space_and_whole(tmp_path):
    """The template's place, a few millimetres of each subject's own aside; nothing touches the grid's faces."""
    options = config(tmp_path, contrasts=("T1w",))
    template = load_template(6.0)
    for subject in range(1, 5):
        make_subject(options, subject)
        name = f"sub-{subject:04d}"
        image = nib.load(tmp_path / name / "anat" / f"{name}_T1w.nii.gz")
        inside = np.asarray(image.dataobj) > 0
        shift = middle_mm(inside, image.affine) - middle_mm(template.brain, template.affine)
        assert np.abs(shift).max() < 10
        assert not any(np.take(inside, side, axis=axis).any() for axis in range(3) for side in (0, -1))


def test_tissues_have_the_contrast_of_their_names(tmp_path):
    """White matter (bright in T1w) is dark in T2w; fluid is bright in T2w and dark in FLAIR."""
    make_subject(config(tmp_path, spacing_mm=4.0, lesion_fraction=0.0), 1)
    t1, t2, flair = (voxels(tmp_path, 1, contrast) for contrast in ("T1w", "T2w", "FLAIR"))
    brain = ndimage.binary_erosion(t1 > 0, iterations=3)  # the ventricles' fluid, not the rim's
    white, fluid = (
        brain & beyond for beyond in (t1 > np.quantile(t1[brain], 0.8), t1 < np.quantile(t1[brain], 0.02))
    )
    assert np.median(t2[white]) < np.median(t2[brain]) < np.median(t2[fluid])
    assert np.median(flair[fluid]) < np.median(flair[brain])


def test_tissues_are_where_their_names_say(tmp_path):
    make_subject(config(tmp_path, spacing_mm=3.0), 1)
    image = nib.load(tissue_labels(tmp_path, "sub-0001"))
    labels, t1 = np.asarray(image.dataobj), voxels(tmp_path, 1, "T1w")
    assert not labels[t1 == 0].any() and set(np.unique(labels)) == {0, *TISSUES}
    grey, white, deep, fluid = (labels == number for number in TISSUES)
    assert np.median(t1[fluid]) < np.median(t1[grey]) < np.median(t1[white])
    assert abs(np.median(t1[deep]) - np.median(t1[grey])) < 0.1 * np.median(t1[grey]), "told by place alone"
    for part in (deep, fluid):
        assert np.abs(middle_mm(part, image.affine) - [0, -5, 10]).max() < 16
        assert 15 < part.sum() * 0.027 < 60, "millilitres"
    assert grey.sum() > 10 * deep.sum()


def test_displacements_are_as_large_as_wanted(tmp_path):
    for warp_mm in (0.0, 2.5, 6.0):
        make_subject(config(tmp_path / str(warp_mm), spacing_mm=4.0, warp_mm=warp_mm), 1)
    still, usual, far = (
        np.asarray(nib.load(tissue_labels(tmp_path / name, "sub-0001")).dataobj)
        for name in ("0.0", "2.5", "6.0")
    )
    assert 0.02 < (usual != still).mean() < 0.7 * (far != still).mean()


def test_noise_is_as_strong_as_wanted(tmp_path):
    for noise in (0.05, 0.15):
        make_subject(config(tmp_path / str(noise), noise=(noise, noise), lesion_fraction=0.0), 1)
    weak, strong = (voxels(tmp_path / str(noise), 1, "T1w").astype(float) for noise in (0.05, 0.15))
    bright = weak > 700
    assert (strong - weak)[bright].std() == pytest.approx(100, rel=0.2), "the same draw, scaled"


def test_a_subject_depends_on_seed_and_number_alone(tmp_path):
    few, many = (synthesise(config(tmp_path / str(n), subjects=n, workers=w)) for n, w in ((2, 1), (4, 2)))
    other = synthesise(config(tmp_path / "other", subjects=2, seed=1))
    for subject in (1, 2):
        assert np.array_equal(voxels(few, subject, "T2w"), voxels(many, subject, "T2w"))
        assert not np.array_equal(voxels(few, subject, "T2w"), voxels(other, subject, "T2w"))
    assert not np.array_equal(voxels(few, 1, "T2w"), voxels(few, 2, "T2w"))


def test_lesions_are_the_only_difference_between_labels(tmp_path):
    """The same subject with and without: equal outside of the mask, of the right sign within."""
    sick, well = (config(tmp_path / str(f), lesion_fraction=f, spacing_mm=4.0) for f in (1.0, 0.0))
    for options in (sick, well):
        make_subject(options, 3)
    mask = lesion_mask(sick.out, 3)
    assert mask.any()
    for contrast, sign in (("T1w", -1), ("T2w", 1), ("FLAIR", 1)):
        difference = voxels(sick.out, 3, contrast).astype(int) - voxels(well.out, 3, contrast)
        assert not difference[~mask].any(), "something beside the lesions has changed"
        assert (difference[mask] != 0).mean() > 0.97
        assert np.sign(np.median(difference[mask])) == sign, contrast


def test_without_load_a_label_has_no_effect(tmp_path):
    sick = config(tmp_path / "a", lesion_fraction=1.0, lesion_load=0.0)
    well = config(tmp_path / "b", lesion_fraction=0.0)
    for options in (sick, well):
        make_subject(options, 1)
    assert np.array_equal(voxels(sick.out, 1, "FLAIR"), voxels(well.out, 1, "FLAIR"))


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.3, 0.5, 1.0])
def test_labels_are_balanced_and_seeded(tmp_path, fraction):
    options = config(tmp_path, subjects=200, lesion_fraction=fraction)
    labels = [has_lesions(options, k) for k in range(1, 201)]
    assert sum(labels) == round(200 * fraction)
    if fraction == 0.5:
        others = [has_lesions(config(tmp_path, lesion_fraction=0.5, seed=1), k) for k in range(1, 201)]
        assert labels != others


def test_interrupted_it_completes_and_redoes_nothing(tmp_path):
    out = synthesise(config(tmp_path / "cohort", subjects=2))
    before = (out / "sub-0001" / "anat" / "sub-0001_T1w.nii.gz").stat().st_mtime_ns
    synthesise(config(tmp_path / "cohort", subjects=3))
    assert (out / "sub-0001" / "anat" / "sub-0001_T1w.nii.gz").stat().st_mtime_ns == before
    assert len(pd.read_csv(out / "participants.tsv", sep="\t")) == 3


def test_other_options_in_the_same_folder_are_refused(tmp_path):
    synthesise(config(tmp_path / "cohort", subjects=1))
    with pytest.raises(DataError, match="not this cohort"):
        synthesise(config(tmp_path / "cohort", subjects=1, seed=5))
    with pytest.raises(DataError, match="not empty"):
        synthesise(config(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"contrasts": ("PET",)},
        {"contrasts": ()},
        {"contrasts": ("T1w", "T1w")},
        {"subjects": 0},
        {"lesion_load": 2.0},
        {"lesion_load": float("nan")},
        {"spacing_mm": 50.0},
        {"noise": (0.2, 0.1)},
        {"seed": -1},
        {"workers": -1},
    ],
)
def test_impossible_options_are_refused(tmp_path, changes):
    with pytest.raises(ConfigError):
        config(tmp_path, **changes)
