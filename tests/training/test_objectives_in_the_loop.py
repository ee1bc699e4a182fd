"""What the loop does for objectives that compare samples, for settings, and for losses that reach 0."""

from __future__ import annotations

import json

import pytest
import torch

from mdae.errors import ConfigError
from mdae.options import ObjectiveOptions
from mdae.training.launch import launch
from mdae.training.loop import Trainer, pretrain
from mdae.training.metrics import Window
from mdae.training.run import open_run
from tests.conftest import short_run
from tests.training import golden


def groups(store, tmp_path, **changes: object) -> list[list[int]]:
    config = short_run(store, tmp_path / "run", **changes)
    run = open_run(config)
    assert run.num_validation == 2
    return Trainer(run, launch(config)).held_out.groups


def test_held_out_samples_come_as_many_at_once_as_in_training(store, tmp_path):
    assert groups(store, tmp_path) == [[0, 1]]
    assert groups(store, tmp_path, batch=1) == [[0], [1]]
    assert groups(store, tmp_path, objective="simclr", batch=2) == [[0, 1]]
    assert groups(store, tmp_path, objective="simclr", batch=8) == [[0, 1]], "as many as there are"


def test_an_objective_that_compares_samples_is_validated(store, tmp_path):
    pretrain(short_run(store, tmp_path / "run", objective="simclr", steps=2, val_every=1))
    rows = golden.read(tmp_path / "run" / "val.csv")
    assert len(rows) == 2 and all(row["loss"] > 0 for row in rows)


def test_too_few_samples_at_once_are_refused_before_the_first_step(store, tmp_path):
    with pytest.raises(ConfigError, match=r"was given 1 .use --batch"):
        pretrain(short_run(store, tmp_path / "run", objective="simclr", accumulate=2))
    assert not (tmp_path / "run").exists()


def test_heads_follow_from_the_seed_and_move_no_weight_of_the_network(store, tmp_path):
    one, same, other = (
        open_run(short_run(store, tmp_path, objective="simclr", seed=seed)).objective.state_dict()
        for seed in (0, 0, 1)
    )
    heads = [name for name in one if not name.startswith("network.") and one[name].dim() > 1]
    assert heads and all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in heads)
    plain = open_run(short_run(store, tmp_path)).objective.state_dict()
    assert all(torch.equal(plain[name], one[name]) for name in plain if "encoder" in name)


def test_a_run_is_known_by_its_settings_however_they_were_given(store, tmp_path):
    run = tmp_path / "run"
    pretrain(short_run(store, run, steps=2, options=ObjectiveOptions(p_min=0.25)))
    pretrain(short_run(store, run, steps=2, settings=("corruption.p_min=0.25",)))  # nothing to do
    record = json.loads((run / "run.json").read_text())
    assert record["settings.corruption.p_min"] == 0.25
    assert json.loads((run / "model" / "config.json").read_text())["objective"]["corruption"]["p_min"] == 0.25
    with pytest.raises(ConfigError, match=r"settings\.corruption\.p_min was 0\.25 and is 0\.01"):
        pretrain(short_run(store, run, steps=2))


def test_a_loss_that_was_0_once_does_not_stop_the_run_and_an_exploding_one_does():
    for lowest, stopped in ((0.0, None), (-1.0, None), (0.5, 1)):
        window = Window()
        window.lowest = lowest
        window.add(1, {"loss": torch.tensor(60.0), "grad_norm": torch.tensor(1.0)})
        assert window.exploded(window.table()) == stopped
