"""Other people's pipelines prepare scans as our encoders do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandSpatialCropd

import mdae
from mdae.errors import ScanError
from mdae.interop.monai import Prepared


def first_scan(cohort):
    return next(cohort.rglob("*_T1w.nii.gz"))


def test_monais_dictionary_holds_what_the_encoder_prepares(cohort, model, tmp_path):
    own = mdae.load(model).prepare(first_scan(cohort))
    scan = Prepared(["image", "other"], model, allow_missing_keys=True)(
        {"image": first_scan(cohort), "label": 1}
    )
    assert scan["label"] == 1 and scan["image"].shape == (1, *own.data.shape)
    assert np.array_equal(scan["image"][0], own.data) and np.allclose(scan["image"].affine, own.affine)
    assert scan["image"].meta["background"] == own.record.background
    pipeline = Compose([Prepared("image", model), RandSpatialCropd("image", (8, 8, 8), random_size=False)])
    assert pipeline({"image": str(first_scan(cohort))})["image"].shape == (1, 8, 8, 8)
    (tmp_path / "bad.nii.gz").write_bytes(b"no scan")
    with pytest.raises((ScanError, RuntimeError), match="bad"):
        Prepared("image", model)({"image": tmp_path / "bad.nii.gz"})


def test_torchios_subject_holds_what_the_encoder_prepares(cohort, model):
    tio = pytest.importorskip("torchio")
    from mdae.interop.torchio import Prepared as Own

    own = mdae.load(model).prepare(first_scan(cohort))
    label = torch.ones(1, 4, 4, 4)
    subject = tio.Subject(scan=tio.ScalarImage(first_scan(cohort)), mask=tio.LabelMap(tensor=label))
    prepared = Own(model)(subject)
    np.testing.assert_allclose(prepared.scan.data[0], own.data, atol=1e-5)
    np.testing.assert_allclose(prepared.scan.affine, own.affine, atol=1e-6)
    assert torch.equal(prepared.mask.data, label)
    with pytest.raises(ScanError, match="2 channels"):
        Own(model)(tio.Subject(scan=tio.ScalarImage(tensor=torch.rand(2, 9, 9, 9))))
