"""The demo, by its parts, on a user's folder and whole; and its page, which needs nothing from anywhere."""

from __future__ import annotations

import re
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from mdae.cli import main
from mdae.inference.restore import Reconstruction
from mdae.report.figures import (
    curves_figure,
    forest_figure,
    landscape_figure,
    loss_figure,
    segmentations_figure,
    steps_figure,
)
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
    page.points(["with 1 < 2"])
    page.figure(steps_figure(reconstruction(), reconstruction(), reconstruction()), "caption")
    page.figure(landscape_figure({(r, t): reconstruction() for r in (0.2, 0.8) for t in (0.0, 1.0)}), "grid")
    train = pd.DataFrame({"step": [1, 2, 3], "masked": [3.0, 2, 1], "visible": [1.0, np.nan, 0.5]})
    page.figure(loss_figure(train, train), "losses")
    page.figure(forest_figure([("one", 0.7, 0.6, 0.8)], label="AUROC", line=0.5), "probe")
    curve = ("pre-trained", "#D55E00", "-", {1: (0.5, 0.4, 0.6), 4: (0.7, 0.6, 0.8)})
    page.figure(curves_figure({"T2w": [curve], "FLAIR": [curve]}), "curves")
    scan = np.zeros((5, 6, 7))
    maps = {"truth": (scan + 1).astype(int), "none found": scan.astype(int)}
    page.figure(segmentations_figure({"T2w": (scan, maps)}, ("background", "grey matter")), "segmented")
    page.table(["a", "b"], [["1", "<2>"]], strong=[0])
    page.save(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert_self_contained(text)
    assert "A &lt;title&gt;" in text and "&lt;2&gt;" in text and text.count("data:image/png") == 6
    assert "<li>with 1 &lt; 2</li>" in text


def write_masks(cohort, folder, number):
    """Bright and dark halves of the first subjects' T1w, in a folder of their own."""
    folder.mkdir()
    for path in sorted(cohort.glob("*/anat/*_T1w.nii.gz"))[:number]:
        image = nib.load(path)
        data = np.asarray(image.dataobj)
        labels = (data > 0).astype(np.uint8) + (data > np.median(data[data > 0]))
        nib.save(nib.Nifti1Image(labels, image.affine), folder / path.name)


@pytest.mark.slow
def test_the_demo_on_a_users_own_folder(cohort, tmp_path):
    shutil.copytree(cohort, tmp_path / "own", ignore=shutil.ignore_patterns("*FLAIR*", "derivatives"))
    main(["demo", str(tmp_path / "demo"), "--source", str(tmp_path / "own"), "--steps", "2"])
    text = (tmp_path / "demo" / "index.html").read_text()
    assert_self_contained(text)
    assert text.count("data:image/png") == 3 and "segmented" not in text


@pytest.mark.slow
def test_the_demo_on_a_users_own_scans_and_masks(cohort, tmp_path):
    shutil.copytree(cohort, tmp_path / "own", ignore=shutil.ignore_patterns("derivatives"))
    write_masks(cohort, tmp_path / "masks", 9)
    options = ("--source", tmp_path / "own", "--masks", tmp_path / "masks", "--contrasts", "T1w")
    main([str(word) for word in ("demo", tmp_path / "demo", *options, "--steps", 2)])
    text = (tmp_path / "demo" / "index.html").read_text()
    assert_self_contained(text)
    assert text.count("data:image/png") == 5 and "T1w, seen in pre-training, maps alone" in text
    split = pd.read_csv(tmp_path / "demo" / "tasks" / "split.csv")
    seen = pd.read_csv(tmp_path / "demo" / "pretraining.csv", dtype=str)
    assert split["split"].value_counts().to_dict() == {"test": 5, "train": 4}
    assert set(seen["contrast"]) == {"T1w", "FLAIR"} and not set(seen["subject"]) & set(split["subject"])


@pytest.mark.slow
def test_the_whole_demo(tmp_path):
    main(["demo", str(tmp_path / "demo"), "--made-up", "3", "--steps", "4"])
    text = (tmp_path / "demo" / "index.html").read_text()
    assert_self_contained(text)
    first = text[: text.index("<table>")]
    assert (
        "FLAIR, never seen in pre-training, maps alone: with" in first and first.count("data:image/png") == 2
    )
    assert "T2w, seen in pre-training, beside place and intensities: with" in first
    table = pd.read_csv(tmp_path / "demo" / "few_labels.csv")
    assert len(table) == 2 * 2 * 3 and table["untrained_dice"].between(0.2, 0.95).all()
    assert set(table["labelled_subjects"]) == {1, 2, 4}
