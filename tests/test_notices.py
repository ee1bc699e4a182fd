"""What many scans share is one line with a count and an example."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest

from mdae.notices import add, collected, drain, notice, quiet_readers, tell


def test_alone_a_notice_is_told_at_once(caplog):
    notice("voxels 2.5 times coarser", "a.nii")
    assert [record.getMessage() for record in caplog.records] == ["a.nii: voxels 2.5 times coarser"]


def test_those_that_differ_in_numbers_or_details_are_one_line(caplog):
    with collected():
        for number in range(48):
            notice(f"voxels {number}.5 times coarser", f"{number}.nii")
            notice(f"units of microns: {'x' * number}", f"{number}.nii")
        notice("something else", "z\udce9.nii")
        assert not caplog.records
    assert [record.getMessage() for record in caplog.records] == [
        "48 scans alike: voxels 0.5 times coarser, e.g. 0.nii",
        "48 scans alike: units of microns: , e.g. 0.nii",
        r"z\xe9.nii: something else",
    ]


def test_what_is_told_is_told_once_and_of_other_processes_too(caplog):
    with collected():
        notice("odd", "a.nii")
        tell()
        add([("odd", "b.nii")])
        with collected():  # of a command within another
            notice("odd", "b.nii")
        assert len(drain()) == 2
    assert [record.getMessage() for record in caplog.records] == ["a.nii: odd"]


def test_libraries_that_warn_without_a_name_are_quiet():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_readers()
        np.float32(1e38) * np.float32(1e38)
        assert not [w for w in caught if "numpy" in str(w.filename)]
    assert not logging.getLogger("nibabel.global").isEnabledFor(logging.WARNING)


@pytest.fixture(autouse=True)
def restored():
    """The loggers as they were."""
    before = {name: logging.getLogger(name).level for name in ("nibabel", "pydicom", "nrrd")}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)
