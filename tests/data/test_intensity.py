"""Three ways to standardise intensities: each is written and read back, and each ends at unit deviation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mdae.data.intensity import (
    PRESETS,
    Percentile,
    Window,
    ZScore,
    intensity_from_dict,
    intensity_to_dict,
    parse_intensity,
)
from mdae.data.io import Scan
from mdae.data.native import denormalise
from mdae.data.preprocess import PreparedScan, Preprocessing, prepare_scan
from mdae.errors import ConfigError
from mdae.seeding import numpy_generator

ALL = [ZScore(), ZScore("box"), ZScore("foreground"), Percentile(), Percentile(2, 98), Window(-300.5, 1200)]
ALL += [*PRESETS.values(), Window(0, 80, 38.0, 21.5)]


@pytest.mark.parametrize("how", ALL, ids=str)
def test_text_and_json_are_read_back(how):
    assert parse_intensity(str(how)) == how
    assert intensity_from_dict(intensity_to_dict(how)) == how
    contract = Preprocessing(intensity=how)
    assert Preprocessing.from_dict(contract.to_dict()) == contract


@pytest.mark.parametrize(
    "text",
    ["", "ct-foot", "zscore:nose", "window", "window:1", "window:5,1", "window:0,80,3", "window:0,80,3,0"]
    + ["window:nan,3", "percentile:5", "percentile:-1,99", "percentile:a,b", "window:1,2,3,4,5"],
)
def test_nonsense_is_one_line(text):
    if text == "percentile:5":
        assert parse_intensity(text) == Percentile(5.0)
        return
    with pytest.raises(ConfigError):
        parse_intensity(text)


def test_what_earlier_versions_saved_still_loads():
    old = {"spacing_mm": [1.0, 1.0, 1.0], "crop": "head", "margin_mm": 5.0, "height_mm": 200.0}
    old |= {"normalise": "head", "order": 3, "series": "set_aside", "strip": "none"}
    assert Preprocessing.from_dict(old) == Preprocessing()
    nnssl = Preprocessing.from_dict({**old, "normalise": "box", "crop": "nonzero"})
    assert nnssl.intensity == ZScore("box") and nnssl.crop == "nonzero"


def chest(hu_shift: float = 0.0) -> Scan:
    """Soft tissue around lungs and a spine, air outside, in HU."""
    noise = numpy_generator(0, "noise")
    x, y, z = np.indices((60, 60, 40))
    body = ((x - 30) / 26) ** 2 + ((y - 30) / 20) ** 2 < 1
    lung = ((x - 20) / 8) ** 2 + ((y - 30) / 12) ** 2 < 1
    data = np.where(body, 40.0, -1000.0)
    data[lung] = -850
    data[27:33, 40:46] = 700
    data += noise.normal(0, 8, data.shape) + hu_shift + 0 * z
    return Scan(data.astype(np.float32), np.diag([5.0, 5.0, 5.0, 1.0]), Path("ct.nii.gz"))


def prepared(how: object, scan: Scan, **changes: object) -> PreparedScan:
    contract = Preprocessing(spacing_mm=(5.0, 5.0, 5.0), anatomy="body", intensity=how, **changes)  # type: ignore
    return prepare_scan(scan, contract)


@pytest.mark.parametrize("name", PRESETS)
def test_a_windowed_scan_has_mean_0_and_unit_deviation_and_flat_ends(name):
    window, scan = PRESETS[name], chest()
    found = prepared(window, scan)
    assert abs(found.data.mean()) < 1e-3 and found.data.std() == pytest.approx(1, abs=1e-3)
    back = denormalise(found.data, found.record)
    assert back.min() >= window.low - 0.1 and back.max() <= window.high + 0.1
    air = (max(window.low, -1000) - found.record.mean) / found.record.std
    assert found.record.background == pytest.approx(air, abs=0.02), "padding is air"


def test_a_fixed_window_gives_a_tissue_one_value_in_every_scan():
    window = Window(-160, 240, 20.0, 90.0)
    wide = prepared(window, chest(), crop="none").data
    assert wide[30, 18, 20] == pytest.approx((40 - 20) / 90, abs=0.3)
    assert wide.min() == pytest.approx((-160 - 20) / 90)


def test_percentiles_bound_the_anatomy_and_spikes_do_not_move_it():
    scan = chest()
    scan.data[30, 30, 20] = 1e6
    contract = Preprocessing(spacing_mm=(5.0, 5.0, 5.0), anatomy="none", intensity=Percentile(1, 99))
    found = prepare_scan(scan, contract)
    assert denormalise(found.data, found.record).max() < 800
    assert abs(found.data.mean()) < 1e-3 and found.data.std() == pytest.approx(1, abs=1e-3)


def test_over_the_foreground_the_air_in_the_box_does_not_count():
    scan = chest()
    box, foreground = (prepared(ZScore(over), scan, crop="none") for over in ("box", "foreground"))
    assert abs(box.data.mean()) < 1e-3
    tissue = scan.data > -950
    assert abs(foreground.data[tissue].mean()) < 0.05
    assert foreground.data[tissue].std() == pytest.approx(1, abs=0.1)


def test_the_command_line_takes_it_and_refuses_nonsense_by_name(tmp_path):
    def run(how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mdae", "prepare", str(tmp_path), str(tmp_path / "s")]
        return subprocess.run([*command, "--intensity", how], capture_output=True, text=True)

    assert "no scan to take" in run("ct-lung").stderr
    refused = run("ct-foot")
    assert refused.returncode == 2 and "ct-soft" in refused.stderr and "Traceback" not in refused.stderr
