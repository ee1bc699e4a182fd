"""The core is light: embedding, fitting and predicting import no extra, and a missing one is a line that names it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mdae import extras
from mdae.cli import main
from mdae.data.sources import list_source
from mdae.data.store import Store
from mdae.errors import ConfigError
from mdae.evaluation.configs import EmbedConfig
from mdae.evaluation.features.embed import embed
from tests.data.test_dicom import head, write_series

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
USED = (
    *(
        "mdae.cli",
        "mdae.evaluation.features.embed",
        "mdae.evaluation.probing.probe",
        "mdae.evaluation.evaluate",
    ),
    *("mdae.inference.fit", "mdae.inference.predict", "mdae.interop.hub", "mdae.interop.export"),
)
WITHOUT = """
import importlib, importlib.abc, sys, traceback
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {packages}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
for module in {modules}:
    importlib.import_module(module)
"""


def without(monkeypatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[>=;\[ ]", one)[0] for one in requirements}


def test_each_extra_brings_what_the_line_says():
    optional = PROJECT["optional-dependencies"]
    for package, extra in extras.EXTRAS.items():
        owner = {"batchgenerators": "nnunetv2"}.get(package, package)  # nnU-Net's own
        assert owner in names(optional[extra]), f"{package} is not in the extra {extra}"
        assert package not in names(PROJECT["dependencies"])
    (everything,) = optional["all"]
    left = set(optional) - {"all", "dev"} - set(re.split(r"[\[\],]", everything))
    assert left == {"torchio", "wandb"}, "what only some people's pipelines want"


def test_what_is_used_imports_no_extra():
    code = WITHOUT.format(packages=set(extras.EXTRAS) - {"dcm2niix"}, modules=USED)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("nilearn", ["synth", "{tmp}/cohort", "--subjects", "1", "--spacing-mm", "7.9"], "synth"),
        ("blosc2", ["check", "{store}"], "train"),
    ],
)
def test_a_missing_extra_is_one_line(package, arguments, extra, store, tmp_path, monkeypatch, capsys):
    without(monkeypatch, package)
    with pytest.raises(SystemExit) as ended:
        main([one.format(tmp=tmp_path, store=store) for one in arguments])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert f"{package} is not installed" in said and f"pip install 'mdae[{extra}]'" in said


def test_other_modules_that_are_missing_are_bugs(monkeypatch):
    assert extras.missing_extra(ModuleNotFoundError("x", name="mdae.nowhere")) is None
    assert "mdae[parquet]" in str(extras.missing_extra(ModuleNotFoundError("x", name="pyarrow.parquet")))


def test_a_table_that_cannot_be_written_is_told_before_anything_is_embedded(
    model, cohort, tmp_path, monkeypatch
):
    without(monkeypatch, "pyarrow")
    with pytest.raises(ConfigError, match=r"pyarrow is not installed.*mdae\[parquet\]"):
        embed(EmbedConfig(model=str(model), scans=(tmp_path / "nowhere",), out=tmp_path / "f.parquet"))


def test_a_store_says_what_it_is_kept_with(store, monkeypatch):
    without(monkeypatch, "blosc2")
    with pytest.raises(ConfigError, match=r"blosc2 is not installed.*mdae\[train\]"):
        Store.open(store)


def test_dicom_is_set_aside_and_the_others_go_on(cohort, tmp_path, monkeypatch):
    write_series(tmp_path / "Müller-05", head(), np.diag([8.0, 8.0, 8.0, 1.0]))
    scan = next(cohort.rglob("*_T1w.nii.gz"))
    (tmp_path / "A0001_T1w.nii.gz").write_bytes(scan.read_bytes())
    without(monkeypatch, "pydicom")
    listing = list_source(tmp_path)
    assert [entry.path.name for entry in listing.entries] == ["A0001_T1w.nii.gz"]
    assert {row.mend for row in listing.left_out} == {"pip install 'mdae[dicom]'"}


def test_separators_follow_the_name(tmp_path):
    from mdae.data.tables import read_table, write_table

    table = pd.DataFrame({"scan": ["A0001", "Müller-05"], "note": ["a, b", "c"]})
    write_table(tmp_path / "t.tsv", table)
    assert (tmp_path / "t.tsv").read_text().splitlines()[0] == "scan\tnote"
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.tsv").astype(object), table.astype(object))
