"""A configuration as a command: what is parsed again is the same."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import tyro

from mdae.options import AugmentOptions, ObjectiveOptions
from mdae.training.command import command_line
from mdae.training.config import PretrainConfig

EVERYTHING = PretrainConfig(
    store=Path("a store"), out=Path("runs/one"), objective="mae", plugin=Path("own.py"), network="small", steps=7,
    batch=6, accumulate=3, patch=(16, 24, 32), contrasts=("T1w", "FLAIR"), contrast_weights={"T1w": 2.0, "FLAIR": 0.5},
    min_foreground=0.25, lr=3e-5, weight_decay=0.5, warmup=0.125, clip=1.5, max_skipped=2, ema=0.999, precision="bf16",
    accelerator="cpu", devices=2, workers=3, val_fraction=0.25, split="site", val_every="5min", checkpoint_every=3,
    picture_every=0, log_every="30s", export_every="1h", export_now=True, whole_files=True, seed=11,
    augment=AugmentOptions(flip=0.5, rotate_deg=10.0),
    options=ObjectiveOptions(p_min=0.5, noise="flow"),
    settings=("lambda_masked=0.5", "block=8,8,8"), schedule="wsd", decay=0.125, extend=(5, 6), extend_lr=(1e-4, 2e-4),
    init="owner/repo@v1", init_decoder=False, dry_run=True, recompute=True,
    probe=Path("labels of.csv"), label="diagnosis",
    site="scanner", masks=Path("masks"), wandb="brains",
)  # fmt: skip


CHANNELS = replace(
    EVERYTHING, contrasts=(), contrast_weights={}, channels=("T1w", "FLAIR"), lacking="leave_out"
)


def parsed(config: PretrainConfig) -> PretrainConfig:
    command = command_line(config)
    assert command[1:4] == ["-m", "mdae", "pretrain"]
    return tyro.cli(tyro.conf.OmitArgPrefixes[PretrainConfig], args=command[4:])


def test_every_option_comes_back():
    plain = PretrainConfig(store=Path("a"), out=Path("b"))
    same = [
        f.name
        for f in fields(PretrainConfig)
        if all(getattr(own, f.name) == getattr(plain, f.name) for own in (EVERYTHING, CHANNELS))
    ]
    assert same == [], "give a new option another value here"
    assert parsed(EVERYTHING) == EVERYTHING
    assert parsed(CHANNELS) == CHANNELS
    assert parsed(plain) == plain
