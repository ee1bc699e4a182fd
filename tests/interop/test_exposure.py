"""Who was pre-trained on whom: the table is whole and consistent, and says unknown where nobody knows."""

from __future__ import annotations

import pytest

from mdae.errors import ConfigError
from mdae.interop import exposure
from mdae.interop.exposure import known_exposure, overlap_of, pretraining_data
from mdae.interop.known import KNOWN
from mdae.interop.third_party import THIRD_PARTY, describe_third_party
from mdae.tasks.catalogue import CATALOGUE
from mdae.tasks.layouts import LAYOUTS


@pytest.mark.parametrize(
    ("encoder", "layout", "mark"),
    [
        ("brainmvp:BrainMVP_uniformer.pt", "ucsf-pdgm", "seen"),
        ("brainmvp:x.pt", "brats23", "seen"),
        ("brainmvp:x.pt", "brats18", "shared"),
        ("brainmvp:x.pt", "rsna-miccai", "shared"),
        ("brainmvp:x.pt", "upenn-gbm", "shared"),
        ("nnssl:MIC-DKFZ/ResEncL-OpenMind-MAE", "ucsf-pdgm", "unseen"),
        ("nnssl:mine/checkpoint_final.pth", "ucsf-pdgm", "unknown"),
        ("nnssl:MIC-DKFZ/ResEncL-OpenMind-MAE", "table", "unknown"),
        ("medicalnet:resnet_50_23dataset.pth", "brats18", "shared"),
        ("medicalnet:resnet_50_23dataset.pth", "ucsf-pdgm", "unknown"),
        ("brainiac:BrainIAC.ckpt", "upenn-gbm", "unknown"),
        ("mri-core:MRI_CORE_vitb.pth", "tcga-gbm", "unknown"),
        ("dinov2:facebook/dinov2-base", "brats18", "unseen"),
        ("dinov2:facebook/dinov2-base", "bids", "unseen"),
    ],
)
def test_what_is_known_is_marked_and_the_rest_is_unknown(encoder, layout, mark):
    found = known_exposure(encoder, layout)
    assert found.mark == mark and found.what
    assert found.contaminated == (mark in ("seen", "shared"))


def test_the_table_names_cohorts_that_are_there_and_every_kind_and_known_weights():
    table = exposure._table()
    known = set(table["cohorts"])
    assert {task.layout for task in CATALOGUE} <= known
    assert known & set(LAYOUTS) == {task.layout for task in CATALOGUE}
    for row in table["overlaps"]:
        assert set(row["cohorts"]) <= known and len(row["cohorts"]) == 2 and row["how"]
    assert all(pretraining_data(f"{kind}:x") or kind == "nnssl" for kind in THIRD_PARTY)
    assert all(pretraining_data(weights.spec) for weights in KNOWN.values())
    assert overlap_of("brats21", "rsna-miccai") == overlap_of("rsna-miccai", "brats21") != ""
    assert overlap_of("brats18", "ucsf-pdgm") == ""


def test_mdae_encoders_tells_what_is_not_unseen():
    said = "\n".join(describe_third_party("brainmvp"))
    assert "not unseen: ucsf-pdgm: pre-trained on UCSF-PDGM, 495 cases" in said
    assert "the same people, under the same numbers" in said


def test_a_table_that_is_gone_is_one_line(monkeypatch, tmp_path):
    exposure._table.cache_clear()
    monkeypatch.setattr(exposure, "TABLE", tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="pre-training data"):
        known_exposure("brainmvp:x", "brats18")
    exposure._table.cache_clear()
