"""The log in Weights & Biases, by a stand-in that keeps what it is given."""

from __future__ import annotations

import importlib.util
import sys
import types

import numpy as np
import pytest

from mdae.errors import ConfigError
from mdae.training.log import RunLog
from mdae.training.loop import pretrain
from mdae.training.wandb_log import WandbLog, require_wandb
from tests.conftest import short_run


class Stand:
    def __init__(self):
        self.logged, self.finished, self.opened = [], 0, []

    def init(self, **options):
        self.opened.append(options)
        return self

    def define_metric(self, *_, **__):
        pass

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished += 1

    def Image(self, image):  # noqa: N802 - as theirs
        return image.shape


@pytest.fixture
def wandb(monkeypatch) -> Stand:
    stand = Stand()
    module = types.ModuleType("wandb")
    module.__spec__ = importlib.util.spec_from_loader("wandb", None)
    module.init, module.Image = stand.init, stand.Image
    monkeypatch.setitem(sys.modules, "wandb", module)
    return stand


def test_rows_and_pictures_go_there_too_and_a_resume_goes_on(wandb, tmp_path):
    for step in (0, 2):
        log = RunLog(tmp_path, step, mirror=WandbLog("brains", tmp_path, {"lr": 0.1}))
        log.row("train", step + 1, {"loss": 0.5, "masked": float("nan"), "scans": "a b"})
        log.picture("reconstructions", step + 1, np.zeros((4, 6, 3), np.uint8))
        log.close()
    assert wandb.logged[:2] == [{"step": 1, "train/loss": 0.5}, {"step": 1, "reconstructions": (4, 6, 3)}]
    assert wandb.finished == 2 and wandb.opened[0]["id"] == wandb.opened[1]["id"]
    assert wandb.opened[0]["project"] == "brains" and wandb.opened[0]["resume"] == "allow"


def test_a_run_is_shown_when_asked(wandb, named_store, tmp_path):
    pretrain(short_run(named_store, tmp_path / "quiet", steps=2))
    assert not wandb.opened
    pretrain(short_run(named_store, tmp_path / "run", steps=2, wandb="brains"))
    assert {"train/loss", "val/loss", "rank/crops"} <= {name for row in wandb.logged for name in row}
    assert wandb.finished == 1


def test_where_it_is_not_installed_that_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require_wandb("")
    with pytest.raises(ConfigError, match=r"wandb is not installed.*mdae\[wandb\]"):
        require_wandb("brains")
