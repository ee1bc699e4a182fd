"""What a run is made of: what is odd about its options is said before the first step."""

from __future__ import annotations

import logging

import pytest

from mdae.objectives.settings import flatten
from mdae.options import ObjectiveOptions
from mdae.training.run import open_run
from tests.conftest import short_run


@pytest.mark.parametrize(
    ("options", "block", "said"),
    [
        ({}, (2, 2, 2), "mask blocks of 2x2x2 voxels, for 16x16x16 would be half of a crop"),
        ({"patch": (16, 16, 32)}, (2, 2, 4), "mask blocks of 2x2x4"),
        ({"patch": (48, 48, 48)}, (16, 16, 16), ""),
        ({"objective": "simmim"}, (2, 2, 2), "mask blocks of 2x2x2"),
        ({"settings": ("block=7,8,16",)}, (7, 8, 16), "7x8x16 voxels are half of a crop"),
        ({"settings": ("corruption.block=8,8,8",)}, (8, 8, 8), "left out, they are 2x2x2"),
        ({"options": ObjectiveOptions(block=(8, 8, 8))}, (8, 8, 8), "left out, they are 2x2x2"),
        ({"settings": ("block=7,7,7",)}, (7, 7, 7), ""),
        ({"objective": "dsm"}, (16, 16, 16), ""),
        ({"objective": "simclr", "batch": 2}, None, ""),
    ],
)
def test_blocks_are_not_half_of_a_crop_unless_asked_for(named_store, tmp_path, caplog, options, block, said):
    with caplog.at_level(logging.INFO, logger="mdae"):
        run = open_run(short_run(named_store, tmp_path / "run", **{"patch": (16, 16, 16), **options}))
    found = flatten(run.settings)
    assert found.get("corruption.block", found.get("block")) == block
    assert said in caplog.text and bool(said) == ("mask blocks" in caplog.text)


@pytest.mark.parametrize(
    ("network", "asked", "found"), [("tiny", 0.0, 2e-3), ("tiny", 5e-4, 5e-4), ("base", 0.0, 1e-3)]
)
def test_a_network_has_its_own_rate_where_none_is_asked_for(named_store, tmp_path, network, asked, found):
    own = short_run(named_store, tmp_path / "run", network=network, lr=asked, patch=(32, 32, 32))
    assert open_run(own).config.lr == found
