"""Encoders of a user's own: twenty lines in a file, an installed package's, and what goes wrong in them."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

import mdae
from mdae.data.preprocess import Preprocessing
from mdae.errors import ConfigError
from mdae.evaluation.features import custom
from mdae.evaluation.features.custom import installed, open_custom
from mdae.evaluation.features.extractors import exposure_of, is_own, open_backbone, open_extractor
from mdae.evaluation.features.show import show_encoder
from tests.evaluation.clinic import clinic, run

ENCODER = """
import numpy as np

class Helper:
    pass

class Encoder:
    name = "brightness"
    pretrained_on = {"ucsf-pdgm": "all of it"}

    def __init__(self, device):
        assert device == "cpu"

    def embed(self, volume, spacing_mm):
        assert volume.dtype == np.float32 and len(spacing_mm) == 3
        return np.r_[volume.mean(), np.percentile(volume, [50, 90, 99]), spacing_mm]
"""


class Installed:
    """What a package's entry point names."""

    contract = Preprocessing(spacing_mm=(8.0, 8.0, 8.0))

    def __init__(self, device: str, path: str = "nothing") -> None:
        self.name = f"installed {Path(path).name}"

    def embed(self, volume: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
        assert spacing_mm == (8.0, 8.0, 8.0)
        return np.array([volume.std(), volume.max()])

    def backbone(self) -> None:
        return None


@pytest.fixture
def encoder(tmp_path) -> Path:
    path = tmp_path / "my_encoder.py"
    path.write_text(ENCODER)
    return path


@pytest.fixture
def packages(monkeypatch) -> None:
    entry = EntryPoint("installed", f"{__name__}:Installed", custom.GROUP)
    monkeypatch.setattr(custom, "entry_points", lambda group: [entry] if group == custom.GROUP else [])


def test_a_class_in_a_file_is_evaluated_and_embeds(encoder, tmp_path):
    world = clinic(tmp_path / "clinic")
    found = run(world, tmp_path / "out", "benign", encoder=str(encoder))
    assert found.encoder == "brightness" and found.results[0].scores["auroc"].low > 0
    scan = next((world / "scans").iterdir())
    assert mdae.load(str(encoder)).embed(scan).shape == (7,)
    assert not is_own(str(encoder))
    before = open_custom(str(encoder), "cpu").fingerprint
    other = tmp_path / "other.py"
    other.write_text(ENCODER.replace("90, 99", "90, 95"))
    assert open_custom(str(other), "cpu").fingerprint != before


def test_what_it_was_pretrained_on_is_what_it_says(encoder, tmp_path):
    assert exposure_of(str(encoder), "ucsf-pdgm").mark == "seen"
    assert exposure_of(str(encoder), "brats18").mark == "unseen"
    silent = tmp_path / "silent.py"
    silent.write_text(ENCODER.replace("    pretrained_on", "    other"))
    assert exposure_of(str(silent), "brats18").mark == "unknown"


def test_weights_beside_it_are_part_of_what_it_is(encoder, tmp_path):
    encoder.write_text(ENCODER + '    weights = "weights.bin"\n')
    (tmp_path / "weights.bin").write_bytes(b"1")
    before = open_custom(str(encoder), "cpu").identity
    (tmp_path / "weights.bin").write_bytes(b"2")
    assert open_custom(str(encoder), "cpu").identity != before


def test_an_installed_packages_encoder_is_found_by_name(packages, cohort):
    scan = next(cohort.rglob("*_T1w.nii.gz"))
    assert open_extractor("installed", device="cpu").embed(scan).shape == (2,)
    assert open_extractor("installed:weights.pth", device="cpu").name == "installed weights.pth"
    assert list(installed()) == ["installed"]
    assert next(show_encoder("installed:weights.pth")).startswith("installed or installed:PATH")
    assert not is_own("installed:x")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("return np.r_", "1 / 0; return np.r_"), r"my_encoder\.py:\d+: ZeroDivisionError"),
        (("return np.r_[", "return np.r_[[[0]], "), "my_encoder"),
        (("return", "return 'x' or"), r"embed returned .* where \(F,\) numbers are wanted"),
        (("def embed", "def other"), "0 classes with a method `embed`"),
        (("class Encoder", "class One(Helper):\n    embed = 1 .__add__\n\nclass Two"), "2 classes"),
        (("def __init__(self, device)", "def __init__(self)"), "TypeError"),
        (("import numpy", "import nothing_at_all"), r"my_encoder\.py:2: ModuleNotFoundError"),
    ],
)
def test_errors_of_its_own_are_one_line_with_the_place(encoder, cohort, change, said):
    encoder.write_text(ENCODER.replace(*change))
    with pytest.raises(ConfigError, match=said):
        open_extractor(str(encoder), device="cpu").embed(next(cohort.rglob("*_T1w.nii.gz")))


def test_what_has_no_network_is_not_finetuned(encoder, packages):
    with pytest.raises(ConfigError, match="no network to fine-tune"):
        open_backbone(str(encoder))
    with pytest.raises(ConfigError, match="returned no Backbone"):
        open_backbone("installed")
    with pytest.raises(ConfigError, match="no such Python file"):
        open_extractor("nowhere.py", device="cpu")
