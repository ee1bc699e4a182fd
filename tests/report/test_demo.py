"""The demo, on a user's folder and whole; and its page, which needs nothing from anywhere."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pandas as pd
import pytest

from mdae.cli import main
from mdae.inference.restore import Reconstruction
from mdae.report.figures import forest_figure, landscape_figure, loss_figure, steps_figure
from mdae.report.page import Page
from mdae.seeding import numpy_generator


def reconstruction(sigma: float = 1.0) -> Reconstruction:
    volumes = numpy_generator(0, "x").standard_normal((5, 8, 9, 10)).astype(np.float32)
    return Reconstruction(*volumes, mask=volumes[0] > 0, sigma=sigma)


def assert_self_contained(text: str) -> None:
    """No address of anything outside the file."""
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    assert not re.search(r"(src|href)=\"(?!data:)", text) and "http" not in re.sub(r"base64,[^\"]+", "", text)


def test_a_page_is_one_file(tmp_path):
    page = Page("A <title>", "lead & more")
    page.section("Part", "text")
    page.figure(steps_figure(reconstruction(), reconstruction(), reconstruction()), "caption")
    page.figure(landscape_figure({(r, t): reconstruction() for r in (0.2, 0.8) for t in (0.0, 1.0)}), "grid")
    train = pd.DataFrame({"step": [1, 2, 3], "masked": [3.0, 2, 1], "visible": [1.0, np.nan, 0.5]})
    page.figure(loss_figure(train, train), "losses")
    page.figure(forest_figure([("one", 0.7, 0.6, 0.8)], label="AUROC", line=0.5), "probe")
    page.table(["a", "b"], [["1", "<2>"]], strong=[0])
    page.save(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert_self_contained(text)
    assert "A &lt;title&gt;" in text and "&lt;2&gt;" in text and text.count("data:image/png") == 4


@pytest.mark.slow
def test_the_demo_on_a_users_own_folder(cohort, tmp_path):
    shutil.copytree(cohort, tmp_path / "own", ignore=shutil.ignore_patterns("*FLAIR*"))
    main(["demo", str(tmp_path / "demo"), "--source", str(tmp_path / "own"), "--steps", "2"])
    text = (tmp_path / "demo" / "index.html").read_text()
    assert_self_contained(text)
    assert text.count("data:image/png") == 3 and "lesion" not in text


@pytest.mark.slow
def test_the_whole_demo(tmp_path):
    main(["demo", str(tmp_path / "demo"), "--subjects", "40", "--steps", "4"])
    text = (tmp_path / "demo" / "index.html").read_text()
    assert_self_contained(text)
    assert "FLAIR (never seen)" in text and "T2w (seen in pre-training)" in text
    table = pd.read_csv(tmp_path / "demo" / "probe.csv")
    assert len(table) == 10 and table["auroc"].str.match(r"0\.\d{3} \[").all()
