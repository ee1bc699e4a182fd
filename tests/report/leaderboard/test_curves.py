"""Curves of the leaderboard: figures against the number of labelled subjects, each compared on the same draws."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mdae.cli import main
from mdae.evaluation.results.reader import read_results
from mdae.evaluation.statistics.curve import CurvePoint, curve_estimate
from mdae.report.leaderboard.comparison import make_leaderboard, warnings
from mdae.report.leaderboard.curves import curve_figure, curve_table
from mdae.seeding import numpy_generator
from tests.evaluation.cells import evaluation, made_up_result, made_up_task, write

SUBJECTS, DRAWS = 20, 3
SIZES = (1, 4, 16)
QUALITY = {"ours": 0.08, "theirs": 0.0}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Two encoders of one task, one better by a constant on every subject and draw, with the last size drawn once."""
    folder, task = tmp_path_factory.mktemp("curves"), made_up_task("organ", "segmentation")
    for encoder, better in QUALITY.items():
        curve = []
        for place, size in enumerate(SIZES):
            draws = 1 if size == SIZES[-1] else DRAWS
            shape = (draws, SUBJECTS)
            values = (
                0.5 + 0.1 * place + better + 0.05 * numpy_generator(0, "dice", size).standard_normal(shape)
            )
            curve.append(CurvePoint(size, {"dice": values.tolist()}, {"dice": curve_estimate(values)}))
        own = made_up_result(task, "T1w", np.full(SUBJECTS, np.nan), np.array(curve[-1].values["dice"][0]))
        write(folder, evaluation(task, encoder, [replace(own, curve=curve)], "voxels+position"))
    return folder


def test_the_table_compares_on_the_same_draws(results):
    board = make_leaderboard(read_results([results]), "theirs")
    _, lines = curve_table(board, "voxels+position", "organ")
    assert [(line[1], line[2], line[3]) for line in lines] == [
        (size, draws, name)
        for size, draws in (("1", "3"), ("4", "3"), ("16", "1"))
        for name in ("ours", "theirs (baseline)")
    ]
    for line in lines[::2]:
        assert line[-1].startswith("0.080 [0.080"), "better by a constant, whatever the draw"
    assert lines[1][-1] == "–"


def test_the_figure_has_a_band_an_encoder(results):
    figure = curve_figure(make_leaderboard(read_results([results]), "theirs"), "voxels+position", "organ")
    (axis,) = figure.axes
    assert [line.get_label() for line in axis.get_lines()] == ["ours", "theirs"] and len(
        axis.collections
    ) == 2
    np.testing.assert_array_equal(axis.get_lines()[0].get_xdata(), SIZES)
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1", "4", "16"]


def test_page_and_files_have_them(results, tmp_path):
    main(["leaderboard", str(results), "--baseline", "theirs", "--out", str(tmp_path)])
    rows = list(csv.DictReader((tmp_path / "curves.csv").read_text().splitlines()))
    assert len(rows) == 6 and {row["encoder"] for row in rows} == set(QUALITY)
    assert float(rows[0]["difference"]) == pytest.approx(0.08)
    assert "labelled subjects" in (tmp_path / "index.html").read_text()
    assert "By the number of labelled subjects" in (tmp_path / "leaderboard.md").read_text()


def test_of_segmentations_the_place_is_the_baseline_that_is_missed(results):
    (said,) = (
        line for line in warnings(make_leaderboard(read_results([results]), "theirs")) if "trivial" in line
    )
    assert "--encoder position:MODEL --protocol voxels --with-position" in said and "histogram" not in said
