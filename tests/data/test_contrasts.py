"""Contrasts are told by what their names mean."""

from __future__ import annotations

import pytest

from mdae.data.contrasts import by_channel, meant

CHANNELS = ("T1w", "T1c", "T2w", "FLAIR")


@pytest.mark.parametrize(
    "names",
    [
        ("t1", "t1ce", "t2", "flair"),  # BraTS 2018
        ("t1n", "t1c", "t2w", "t2f"),  # BraTS 2023
        ("T1", "T1GD", "T2", "FLAIR"),  # UPENN-GBM
        ("T1w", "T1wCE", "T2w", "FLAIR"),
        ("T1w", "T1w-gd", "T2w", "FLAIR"),
        ("T1w", "ce-gd_T1w", "T2w", "T2-FLAIR"),  # BIDS
    ],
)
def test_data_sets_names_are_the_channels(names):
    assert by_channel(names, CHANNELS) == dict(zip(CHANNELS, names, strict=True))
    assert by_channel(names[::-1], CHANNELS) == dict(zip(CHANNELS, names, strict=True))


def test_the_very_name_comes_first_and_what_is_not_clear_is_none():
    assert by_channel(("t1", "T1w"), ("T1w",)) == {"T1w": "T1w"}
    assert by_channel(("t1", "T1n"), ("T1w",)) == {}
    assert by_channel(("SWI", "swi"), ("SWI", "T1w")) == {"SWI": "SWI"}
    assert by_channel(("bold",), CHANNELS) == {}
    assert meant("ADC map") == "adcmap"
