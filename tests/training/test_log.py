"""The run's tables: what a resume drops of them, and what it leaves alone."""

from __future__ import annotations

import pytest

from mdae.errors import DataError
from mdae.training.log import RunLog
from mdae.training.loop import pretrain
from mdae.training.step import Learner
from tests.conftest import short_run
from tests.training.test_loop import assert_same_run


def test_a_resume_keeps_rows_to_its_step_byte_for_byte(tmp_path):
    table = tmp_path / "train.csv"
    for end in (b"\r\n", b"\n"):
        table.write_bytes(end.join([b"step,loss", b"2,1.5", b"4,1.25", b"6,1", b"8,0.5"])[:-2])
        RunLog(tmp_path, 4).close()
        assert table.read_bytes() == end.join([b"step,loss", b"2,1.5", b"4,1.25", b""])


def test_other_tables_of_the_folder_are_nobodys_business(tmp_path):
    tables = {
        "split.csv": "subject,split\nADNI-002-S-0001,train\nsiteA/sub-01,val\n",
        "labels.csv": "step,diagnosis\n99,AD\n",
        "notes.csv": "",
        "cohort.csv": "7,8\n9,10",
    }
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
    RunLog(tmp_path, 1).close()
    assert {name: (tmp_path / name).read_text() for name in tables} == tables


@pytest.mark.parametrize("text", ["subject,split\nA,train\n", "step,age\nbaseline,70\n"])
def test_a_table_of_the_same_name_that_no_run_wrote_is_refused_and_kept(tmp_path, text):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(DataError, match="no run wrote"):
        RunLog(tmp_path, 0)
    assert (tmp_path / "train.csv").read_text() == text


def test_a_run_of_subjects_as_archives_name_them_resumes(named_store, tmp_path, monkeypatch):
    config = short_run(named_store, tmp_path / "run", steps=8)
    pretrain(short_run(named_store, tmp_path / "whole", steps=8))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "participants.csv").write_text("participant_id,age\nADNI-002-S-0001,70\n")
    for step in (3, 6):
        with monkeypatch.context() as patched:
            patched.setattr(Learner, "step", interrupted_at(step))
            with pytest.raises(RuntimeError, match="power cut"):
                pretrain(config)
    pretrain(config)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert (tmp_path / "run" / "participants.csv").read_text().endswith("ADNI-002-S-0001,70\n")
    assert (tmp_path / "run" / "split.csv").read_text().count("siteA/sub-") > 1


def interrupted_at(last: int):
    original = Learner.step

    def step(self, batches, rate, number):
        if number == last:
            raise RuntimeError("power cut")
        return original(self, batches, rate, number)

    return step
