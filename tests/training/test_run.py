"""What a run is made of: what is odd about its options is said before the first step."""

from __future__ import annotations

import pytest

from mdae.training.run import open_run
from tests.conftest import short_run


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, True),
        ({"settings": ("block=7,8,16",)}, True),
        ({"settings": ("block=7,7,7",)}, False),
        ({"objective": "dsm"}, False),
        ({"objective": "simclr", "batch": 2}, False),
    ],
)
def test_a_block_that_is_half_of_a_crop_is_warned_of(named_store, tmp_path, caplog, options, said):
    open_run(short_run(named_store, tmp_path / "run", **{"patch": (16, 16, 16), **options}))
    assert ("half of a crop" in caplog.text) == said
    if said:
        assert "--set block=4,4,4" in caplog.text
