"""Writes happen whole or not at all."""

from __future__ import annotations

import errno

import pytest

from mdae.errors import DataError, MDAEError
from mdae.files import atomic_write


def test_the_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "x.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists() and temporary.suffix == ".txt"
    assert path.read_text() == "whole" and [p.name for p in path.parent.iterdir()] == ["x.txt"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("before")
    with pytest.raises(ValueError, match="oh"), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise ValueError("oh")
    assert path.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "no permission")]
)
def test_what_a_user_can_mend_is_one_line(tmp_path, number, said):
    with pytest.raises(DataError, match=said), atomic_write(tmp_path / "x"):
        raise OSError(number, "as the system says")


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(DataError, match="a file stands where"), atomic_write(tmp_path / "taken" / "x.txt"):
        raise AssertionError("there is nowhere to write")


def test_an_error_is_one_line():
    error = MDAEError("a\nb", where="here", mend="do\n this")
    assert str(error) == "here: a b (do this)"


def test_others_may_read_what_a_library_wrote_for_its_owner_alone(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    with atomic_write(tmp_path / "out") as temporary:
        temporary.touch(mode=0o600)
    assert (tmp_path / "out").stat().st_mode == plain.stat().st_mode
