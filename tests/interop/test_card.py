"""The card says what stands in the folder and in result files, and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import yaml

from mdae.errors import DataError, ModelError
from mdae.interop.card import model_card
from mdae.interop.configs import CardConfig
from mdae.interop.hub import write_card
from mdae.interop.known import KNOWN, describe_known, spelled_out
from mdae.interop.third_party import THIRD_PARTY


def test_a_models_card_tells_contract_contamination_scores_and_checksums(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "brain" / "model")
    score = {"auroc": {"value": 0.81, "low": 0.7, "high": 0.9}}
    for name in ("brain", "another"):
        result = {"encoder": name, "protocol": "linear", "task": {"name": "idh"}}
        result["results"] = [{"modality": "T1", "scores": score if name == "brain" else {}}]
        (tmp_path / "results").mkdir(exist_ok=True)
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(result))
    path = write_card(CardConfig(model=folder, name="me/brain", results=tmp_path / "results", licence="mit"))
    text = path.read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "mit" and front["library_name"] == "mdae" and "mdae" in front["tags"]
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    wanted = (
        "Not for diagnosis",
        "spacing_mm",
        "salted hashes",
        "0.700 to 0.900",
        digest,
        "mdae embed me/brain",
    )
    assert path.name == "README.md" and all(part in text for part in wanted)
    config = json.loads((folder / "config.json").read_text())
    assert not any(own in text for own in config["provenance"]["subjects"]["hashes"])


def test_what_cannot_be_told_has_its_line(model, tmp_path):
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(DataError, match="no result file"):
        model_card(model, name="a/b", results=tmp_path)
    (tmp_path / "bad.json").unlink()
    with pytest.raises(DataError, match="no score of run there"):
        model_card(model, name="a/b", results=tmp_path)
    with pytest.raises(ModelError, match="no model there"):
        model_card(tmp_path, name="a/b")


def test_short_names_stand_for_kinds_that_are_read():
    assert (
        spelled_out("openmind-mae") == "nnssl:MIC-DKFZ/ResEncL-OpenMind-MAE" and spelled_out("run") == "run"
    )
    for name, known in KNOWN.items():
        kind, _, repository = known.spec.partition(":")
        assert kind in THIRD_PARTY and repository.count("/") == 1 and name == known.name
        assert known.spec in "\n".join(describe_known(name))
