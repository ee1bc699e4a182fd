"""Models pushed to a stand-in of the Hub by the real huggingface_hub, and loaded from it by name, everywhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from mdae.errors import ConfigError, ModelError
from mdae.interop.configs import PushConfig
from mdae.interop.hub import push
from mdae.networks.hub import is_hub_name, local_folder, pinned
from mdae.networks.saved import load_model
from tests.inference.small import clinic
from tests.interop import hub_stand_in

# one process for the whole way, since huggingface_hub reads its address when it is imported
BOTH_WAYS = """
import sys
from pathlib import Path

import mdae
from mdae.cli import main
from mdae.evaluation.features.extractors import open_extractor
from mdae.networks.saved import load_model

model, scan, labels = sys.argv[1:]
main(["push", model, "owner/brain", "--licence", "cc-by-4.0"])
main(["push", model, "owner/brain"])  # again: no harm
own, theirs = mdae.load(model).embed(scan), mdae.load("owner/brain").embed(scan)
assert (own == theirs).all()
assert load_model("owner/brain").contract == load_model(model).contract  # as --init does
assert open_extractor("owner/brain").name == "brain"
fitted = mdae.fit("owner/brain", labels, "fitted", label="lesion", folds=3, repeats=1, workers=1, cache="cache")
place = fitted.about["encoder"]["place"]
assert place.startswith("owner/brain@") and len(place.partition("@")[2]) == 40, place
main(["push", "fitted", "owner/lesions"])
said = mdae.load_fitted("owner/lesions").predict(scan)
assert said.row() == fitted.predict(scan).row()
assert (mdae.load(place).embed(scan) == own).all()
main(["predict", "owner/lesions", scan, "--out", "p.csv"])
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[hub_stand_in.Hub]:
    with hub_stand_in.running() as hub:
        yield hub


def run(hub, folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    surroundings = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "hf"),
        "HF_TOKEN": "hf_token",
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
        **env,
    }
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=surroundings, capture_output=True, text=True
    )


@pytest.mark.slow
def test_there_and_back(hub, model, cohort, tmp_path):
    model = shutil.copytree(model, tmp_path / "own" / "model")
    scans, labels = clinic(cohort, tmp_path)
    scan = next(scans.iterdir())
    done = run(hub, tmp_path, "-c", BOTH_WAYS, str(model), str(scan), str(labels))
    assert done.returncode == 0, done.stderr[-3000:]
    pushed = next(iter(hub.repositories["owner/brain"].values()))
    assert set(pushed) == {"README.md", "config.json", "model.safetensors"}
    card = pushed["README.md"].decode()
    assert card.startswith("---\nlicense: cc-by-4.0\n") and 'mdae.load("owner/brain")' in card
    assert "pushed: owner/brain@" in done.stdout
    offline = run(hub, tmp_path, "-c", "import mdae; mdae.load('owner/brain')", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr[-2000:]  # what was fetched once is there


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "env", "said"),
    [
        ("owner/nowhere", {}, "no such folder, nor such a repository"),
        ("owner/gated", {}, "gated .ask for access"),
        ("owner/other", {"HF_HUB_OFFLINE": "1"}, "cannot be reached"),
    ],
)
def test_what_is_not_to_be_had_is_one_line(hub, tmp_path, name, env, said):
    done = run(hub, tmp_path, "-m", "mdae", "export", name, "weights.pth", **env)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.search(said, done.stderr), done.stderr


def test_a_push_that_cannot_be_has_its_line(tmp_path, model):
    with pytest.raises(ModelError, match=r"neither config\.json nor fitted\.json there"):
        push(PushConfig(model=tmp_path, name="owner/x"))
    with pytest.raises(ConfigError, match="no name of a repository"):
        push(PushConfig(model=model, name="x"))


def test_names_of_the_hub_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("owner/name") and is_hub_name("owner/name@v1.0")
    assert pinned("owner/name@main", tmp_path / "a1b2") == "owner/name@a1b2"
    for path in ("run", "/run/model", "run/model/", "a/b/c", "./run/model"):
        assert not is_hub_name(path)
    (tmp_path / "run" / "model").mkdir(parents=True)
    assert not is_hub_name("run/model") and local_folder("run/model") == Path("run/model")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LocalEntryNotFoundError("x"), "cannot be reached"),
        (ConnectionError("x"), "cannot be reached"),
        (OSError("the disk is odd"), "not to be had from the Hugging Face Hub .the disk is odd."),
    ],
)
def test_what_is_not_to_be_had_says_what_to_do(monkeypatch, error, said):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ModelError, match=said):
        load_model("owner/name")
