"""A table of features in the place of an encoder: whose row a scan's is, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mdae.data.catalogue import ScanEntry
from mdae.errors import ConfigError, DataError, ScanError
from mdae.evaluation.features.extractors import is_own, load_encoder, open_backbone, open_extractor
from mdae.evaluation.features.table import FeatureTable
from tests.tasks.trees import save


@pytest.fixture
def scan(tmp_path) -> Path:
    save(tmp_path / "Müller-05_T1w.nii.gz", 1)
    return tmp_path / "Müller-05_T1w.nii.gz"


def entry(scan: Path, subject: str = "Müller-05", contrast: str = "T1w") -> ScanEntry:
    return ScanEntry("", subject, "", contrast, scan)


def features(table: pd.DataFrame, path: Path, asked: ScanEntry) -> list[float]:
    table.to_csv(path, index=False)
    extractor = FeatureTable(path)
    return extractor.features(extractor.prepare(asked)).tolist()


def test_a_row_is_found_by_path_before_subject_and_contrast_before_subject(scan, tmp_path):
    by_path = pd.DataFrame({"path": [scan.name, "other.nii.gz"], "f0000": [1.0, 2.0], "f0001": [3, 4]})
    assert features(by_path, tmp_path / "a.csv", entry(scan)) == [1, 3]
    by_contrast = pd.DataFrame(
        {
            "subject": ["sub-Müller-05", "sub-Müller-05"],
            "contrast": ["T1W", "FLAIR"],
            "0": [5, 6],
            "site": [9, 9],
        }
    )
    assert features(by_contrast, tmp_path / "b.csv", entry(scan)) == [5]
    assert features(by_contrast[["subject", "0"]][:1], tmp_path / "c.csv", entry(scan)) == [5]


def test_a_scan_without_a_row_or_with_two_is_left_out_with_the_reason(scan, tmp_path):
    table = pd.DataFrame({"subject": ["A0001", "A0002", "A0002"], "dim_0": [1, 2, 3]})
    with pytest.raises(ScanError, match=r"no row of features in x\.csv"):
        features(table, tmp_path / "x.csv", entry(scan))
    with pytest.raises(ScanError, match="2 rows of features"):
        features(table, tmp_path / "x.csv", entry(scan, "A0002"))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"subject": ["A0001"], "age": [3]}, "no columns of features"),
        ({"name": ["A0001"], "f0": [3]}, "no columns of `path` or `subject`"),
        ({"subject": ["A0001"], "f0": [np.inf]}, "features of 1 rows are not finite"),
    ],
)
def test_tables_that_do_not_do(tmp_path, table, said):
    pd.DataFrame(table).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(DataError, match=said):
        open_extractor(f"features:{tmp_path / 'x.csv'}")


def test_it_is_no_encoder_of_ours_and_has_no_network(tmp_path):
    pd.DataFrame({"subject": ["A0001"], "f0": [1.0]}).to_csv(tmp_path / "x.csv", index=False)
    spec = f"features:{tmp_path / 'x.csv'}"
    assert not is_own(spec)
    with pytest.raises(ConfigError, match="no network"):
        open_backbone(spec)
    with pytest.raises(ConfigError, match="embeds no scan"):
        load_encoder(spec, "cpu")
