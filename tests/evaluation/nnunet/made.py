"""A small made-up segmentation data set in nnU-Net's layout: real lesions, where there are some, on a real template."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import apply_affine
from scipy import ndimage

from mdae.data.anatomy import Lesions, Template, draw_anatomy, draw_contrast, draw_lesions, load_template
from mdae.data.preprocess import Preprocessing
from mdae.networks import PRESETS
from mdae.networks.saved import SavedModel, save_model
from mdae.seeding import torch_generator

SPACING = 6.0
CHANNELS = ("T1w", "FLAIR")
PATCH = (32, 32, 32)
LARGE, SMALL = 2, 1  # labels of deep lesions and the others


def real_lesions(template: Template) -> list[Lesions]:
    """The lesions of people with multiple sclerosis, brought to the template's coarse grid."""
    root = os.environ.get("MDAE_TEST_DATA")
    found = sorted(Path(root).glob("ms-cross/derivatives/lesions/*/anat/*.nii.gz")) if root else []
    voxels = np.stack(np.indices(template.gm.shape), axis=-1)
    lesions = []
    for path in found[:40]:
        image = nib.load(path)
        share = ndimage.uniform_filter(np.asarray(image.dataobj, dtype=np.float32), round(SPACING))
        there = apply_affine(np.linalg.inv(image.affine) @ template.affine, voxels)
        strength = ndimage.map_coordinates(share, np.moveaxis(there, -1, 0), order=1)
        lesions.append(Lesions(np.clip(2 * strength, 0, 1), int(ndimage.label(strength > 0.2)[1])))
    return sorted(lesions, key=lambda one: -float(one.strength.sum()))


def dataset(folder: Path, subjects: int) -> Path:
    """A raw data set of nnU-Net's: two contrasts, two labels, in LAS as many files are."""
    template = load_template(SPACING)
    real = real_lesions(template)
    root = folder / "Dataset007_Lesions"
    for subject in range(1, subjects + 1):
        lesions = real[subject - 1] if subject <= len(real) else draw_lesions(template, 0, subject)
        anatomy = draw_anatomy(template, 0, subject, lesions)
        mask = (anatomy.lesion > 0.2).astype(np.uint8) * SMALL
        deep = ndimage.binary_erosion(anatomy.tissues.sum(axis=0) > 0, iterations=3)
        mask[(mask > 0) & deep] = LARGE
        name = f"case_{subject:02d}"
        for number, contrast in enumerate(CHANNELS):
            image = draw_contrast(anatomy, contrast, SPACING, 0, subject, 1.0)
            save(root / "imagesTr" / f"{name}_{number:04d}.nii.gz", image, template.affine)
        save(root / "labelsTr" / f"{name}.nii.gz", mask, template.affine)
    about = {
        "channel_names": dict(enumerate(CHANNELS)),
        "labels": {"background": 0, "outer": SMALL, "deep": LARGE},
        "numTraining": subjects,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def with_gaps(data: Path, folder: Path) -> Path:
    """The same data set with the labels 2 and 4 instead of 1 and 2, as people write them; images by link."""
    root = folder / data.name
    root.mkdir(parents=True)
    (root / "imagesTr").symlink_to(data / "imagesTr")
    (root / "labelsTr").mkdir()
    for path in (data / "labelsTr").iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(2 * np.asarray(image.dataobj), image.affine), root / "labelsTr" / path.name)
    about = json.loads((data / "dataset.json").read_text())
    about["labels"] = {name: 2 * value for name, value in about["labels"].items()}
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def save(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    left = nib.orientations.axcodes2ornt("LAS")
    nib.save(nib.Nifti1Image(data, affine).as_reoriented(left), path)


def model(folder: Path, channels: tuple[str, ...] = ()) -> Path:
    """A tiny model, of several contrasts if they are named; no conditioning and norm is an identity: a fold shows."""
    network = PRESETS["tiny"].new(in_channels=max(1, len(channels)))
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            noise = torch.randn(parameter.shape, generator=torch_generator(0, "w", index))
            parameter.add_(0.05 * noise)
    contract = Preprocessing(spacing_mm=(SPACING, SPACING, SPACING))
    save_model(folder, SavedModel(network, contract, PATCH, provenance={}, channels=channels))
    return folder
