"""Every registered objective keeps the contract, and so does one that is written from the documentation alone."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from mdae.cli import main
from mdae.corruption import CorruptionConfig
from mdae.errors import ConfigError
from mdae.networks import Network
from mdae.objectives import OBJECTIVES, Denoising, DenoisingConfig, ObjectiveSpec, register
from mdae.plugin import load_plugin
from tests import contract
from tests.contract import QUICK, Case

# Settings for volumes of sixteen voxels, where the published ones ask for larger ones.
SMALL: dict[str, dict[str, str]] = {
    **{name: {"block": "8,8,8"} for name in ("mdae", "mdae-masked", "mae", "dsm", "diffmae")},
    "simmim": {"block": "4,4,4"},
    "voco": {"width": "64"},
}
# Everything of the denoising family that is off by default.
BEYOND = {
    "foreground": "true",
    "edges": "4,8",
    "fill": "noise",
    "times.kind": "logit_normal",
    "precondition": "true",
    "lambda_gradient": "0.3",
    "conditioned": "false",
}

BUILT_IN = [*(Case(name, SMALL.get(name, {})) for name in OBJECTIVES), Case("mdae", BEYOND)]
OWN = re.compile(r"<!-- test: own -->\n```python\n(.*?)```", re.DOTALL)


def named(value: object) -> str | None:
    if isinstance(value, Case):
        return f"{value.name}-beyond" if value.changes is BEYOND else value.name
    return getattr(value, "__name__", None)


@pytest.mark.parametrize("check", QUICK, ids=named)
@pytest.mark.parametrize("case", BUILT_IN, ids=named)
def test_it_keeps_the_contract(case: Case, check: Callable[[Case], None]):
    assert case.name in OBJECTIVES
    check(case)


@pytest.mark.parametrize("case", BUILT_IN, ids=named)
def test_its_encoder_exports_and_folds(case, tmp_path):
    contract.check_encoder_exports_and_folds(case, tmp_path)
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("case", BUILT_IN, ids=named)
def test_it_resumes_exactly(case, store, tmp_path):
    contract.check_resumes_exactly(case, store, tmp_path)
    assert (tmp_path / "broken" / "model" / "config.json").exists()


@pytest.mark.parametrize("case", BUILT_IN, ids=named)
def test_it_is_documented(case):
    contract.check_documented(case)
    assert case.name in contract.DOCS.read_text()


@pytest.fixture
def own(tmp_path) -> Path:
    """The documentation's example of an objective of one's own, as the file that a reader would write."""
    (text,) = OWN.findall(contract.DOCS.read_text())
    path = tmp_path / "mirrors.py"
    path.write_text(text)
    yield path
    OBJECTIVES.pop("mirrors", None)
    sys.modules.pop("mdae_plugin_mirrors", None)


def test_an_objective_written_from_the_documentation_keeps_the_contract(own, store, tmp_path):
    assert own.read_text().count("\n") < 60
    load_plugin(own)
    load_plugin(own)  # a second time is nothing
    case = Case("mirrors")
    for check in QUICK:
        check(case)
    contract.check_encoder_exports_and_folds(case, tmp_path / "model")
    contract.check_resumes_exactly(case, store, tmp_path)


def test_a_plugin_trains_from_the_command_line_and_its_model_embeds(own, store, cohort, tmp_path):
    run = [sys.executable, "-m", "mdae"]
    options = ["--steps", "2", "--batch", "2", "--patch", "16", "16", "16", "--set", "hidden=16"]
    subprocess.run(
        [*run, "pretrain", store, tmp_path / "run", "--plugin", own, "--objective", "mirrors", *options],
        check=True,
    )
    scan = cohort / "sub-A0001" / "anat" / "sub-A0001_T1w.nii.gz"
    subprocess.run(
        [*run, "embed", tmp_path / "run" / "model", scan, "--out", tmp_path / "f.parquet"], check=True
    )
    told = subprocess.run(
        [*run, "reconstruct", tmp_path / "run" / "model", scan, tmp_path / "out"],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 2 and "objective mirrors leaves no corruption to undo" in told.stderr


@dataclass
class Loose:
    rate: float = 0.1


@dataclass(frozen=True)
class Positional:
    rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Opaque:
    rates: dict[str, float] = field(default_factory=dict)


def spec(settings: object, **more: object) -> ObjectiveSpec:
    return ObjectiveSpec(paper="-", summary="-", settings=settings, build=Denoising, **more)


GOOD = DenoisingConfig(corruption=CorruptionConfig())


@pytest.mark.parametrize(
    ("name", "entry", "said"),
    [
        ("mdae", spec(GOOD), "'mdae' already"),
        ("My Own", spec(GOOD), "lower-case"),
        ("own", spec(Loose()), "no frozen dataclass"),
        ("own", spec({"rate": 1}), "no frozen dataclass"),
        ("own", spec(Positional()), "positional"),
        ("own", spec(Opaque()), "text cannot express"),
        ("own", spec(GOOD, fixed=("ratio",)), "own has no ratio"),
    ],
)
def test_a_bad_registration_is_one_line(name, entry, said):
    before = dict(OBJECTIVES)
    with pytest.raises(ConfigError, match=said) as caught:
        register(name, entry)
    assert "\n" not in str(caught.value) and before == OBJECTIVES


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"no such Python file"),
        ("import torch\nx = 1 / 0\n", r"bad\.py:2: ZeroDivisionError: division by zero"),
        ("x = (\n", r"bad\.py:1: SyntaxError"),
        ("import no_such_module\n", r"bad\.py:1: ModuleNotFoundError"),
        ("from mdae.objectives import OBJECTIVES, register\nregister('mae', OBJECTIVES['mae'])", "already"),
    ],
)
def test_a_bad_plugin_is_one_line(capsys, tmp_path, store, text, said):
    path = tmp_path / "bad.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", str(store), str(tmp_path / "run"), "--plugin", str(path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and re.search(said, line), line


def test_an_objective_that_breaks_the_contract_is_caught():
    """The checks can fail: one that keeps a parameter it does not train, and leaks between samples."""

    class Leaky(Denoising):
        def __init__(self, network: Network, config: DenoisingConfig) -> None:
            super().__init__(network, config)
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, clean, generators, known=None):
            return super().forward(clean - clean.mean(), generators, known)

    register("leaky", ObjectiveSpec(paper="-", summary="-", settings=GOOD, build=Leaky))
    try:
        for check in (
            contract.check_loss_and_gradients_are_finite,
            contract.check_unknown_voxels_teach_nothing,
            contract.check_no_sample_leaks_into_another,
        ):
            with pytest.raises(AssertionError):
                check(Case("leaky"))
    finally:
        del OBJECTIVES["leaky"]
