"""A fitted model's folder: strict, told apart from another, and nothing in it is run."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import safetensors.numpy

from mdae.errors import DataError, ModelError
from mdae.inference.fit import fit
from mdae.inference.load import load_fitted
from mdae.inference.record import RECORD, TENSORS
from tests.inference.small import config, write_tables


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    write_tables(folder, number=30)
    return fit(config(folder, "diagnosis", folds=3)).folder


@pytest.fixture
def fitted(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "fitted")


def edit(fitted, change):
    about = json.loads((fitted / RECORD).read_text())
    change(about)
    (fitted / RECORD).write_text(json.dumps(about))


def test_it_is_two_files_that_hold_no_name(fitted):
    assert {path.name for path in fitted.iterdir()} == {RECORD, TENSORS}
    for path in fitted.iterdir():
        assert b"site" not in path.read_bytes() and not path.read_bytes().startswith(b"\x80")


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.pop("kind"),
        lambda a: a.update(kind="magic"),
        lambda a: a.update(format=99),
        lambda a: a.update(head={}),
        lambda a: a["head"].update(classes=["one", "two", "three"]),
        lambda a: a.update(expected=None),
        lambda a: a.update(encoder="evil.py"),
        lambda a: a.update(contrasts=[]),
        lambda a: a.pop("fitted_on"),
    ],
)
def test_a_record_of_another_kind_has_its_line(fitted, change):
    edit(fitted, change)
    with pytest.raises(ModelError):
        load_fitted(fitted)


@pytest.mark.parametrize("name", ["head.weights", "head.slopes", "novelty.axes", "novelty.known"])
def test_missing_or_unfit_arrays_have_their_line(fitted, name):
    tensors = safetensors.numpy.load_file(fitted / TENSORS)
    safetensors.numpy.save_file({k: v for k, v in tensors.items() if k != name}, fitted / TENSORS)
    with pytest.raises(ModelError):
        load_fitted(fitted)
    safetensors.numpy.save_file({**tensors, name: np.zeros((7, 5))}, fitted / TENSORS)
    with pytest.raises(ModelError):
        load_fitted(fitted)


def test_a_pickle_in_its_place_is_never_opened(fitted, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for name in (TENSORS, RECORD):
        (fitted / name).write_bytes(pickle.dumps(Evil()))
        with pytest.raises(ModelError):
            load_fitted(fitted)
    assert not (tmp_path / "ran").exists()


def test_code_that_a_record_names_as_its_encoder_is_not_run(fitted, tmp_path):
    (fitted / "encoder.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    place = {"place": "encoder.py", "name": "x", "identity": "y", "window": "slide", "pool": "mean"}
    edit(fitted, lambda a: a.update(encoder=place, contrasts=["T1w"]))
    with pytest.raises(ModelError, match="say where it is with --encoder"):
        load_fitted(fitted).predict("scan.nii.gz")
    assert not (tmp_path / "ran").exists()


def test_features_of_another_number_have_their_line(fitted):
    model = load_fitted(fitted)
    for features in (np.zeros((1, 3)), np.full((1, 12), np.nan)):
        with pytest.raises(DataError, match="rows of 12 numbers"):
            model.predict_features(features)
    with pytest.raises(ModelError, match="table of features"):
        model.predict("scan.nii.gz")
