"""The leaderboard: every format from result files, marks and remarks that a reader needs, published scores apart."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mdae.cli import main
from mdae.errors import ConfigError, DataError
from mdae.evaluation.results.reader import read_results
from mdae.evaluation.results.schema import ContrastResult
from mdae.evaluation.statistics.tests import delong, holm
from mdae.interop.exposure import known_exposure
from mdae.report.leaderboard.comparison import make_leaderboard, remarks, warnings
from mdae.report.leaderboard.figures import bars_figure, cells_figure, means_figure, roc_figure, shown_name
from mdae.report.leaderboard.text import CSV_COLUMNS, entries_frame, means_table, task_table
from mdae.seeding import numpy_generator
from mdae.tasks.catalogue import find_task
from tests.evaluation.cells import evaluation, made_up_result, made_up_task, write
from tests.report.test_demo import assert_self_contained

GRADE = find_task("brats18-grade")
QUALITY = {"ours": 2.0, "theirs": 1.0, "untrained-tiny": 0.3, "histogram": 0.2}
NUMBER = 60
NAMED = ("index.html", "leaderboard.md", "leaderboard.tex")


def predictions(encoder: str, contrast: str) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(NUMBER) % 2.0
    noise = numpy_generator(len(encoder), f"{encoder} {contrast}").standard_normal(NUMBER)
    return labels, noise + QUALITY[encoder] * (labels - 0.5)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four encoders on two tasks of the catalogue, a regression and segmentations, with gaps of every kind."""
    folder = tmp_path_factory.mktemp("results")
    age, seg = made_up_task("age", "regression", title="age in years"), find_task("brats18-seg")
    for encoder, quality in QUALITY.items():
        found = [made_up_result(GRADE, m, *predictions(encoder, m)) for m in ("t1", "flair", "all")]
        if encoder == "untrained-tiny":
            found = found[:-1]  # one cell is missing
        found.append(ContrastResult("t2", "in-domain", refused="a class has 3 subjects"))
        write(folder, evaluation(GRADE, encoder, found, trials=4 if encoder == "ours" else 1))
        years = 60 + 10 * numpy_generator(0, "age").standard_normal(NUMBER)
        guess = years + (4 - quality) * numpy_generator(1, encoder).standard_normal(NUMBER)
        write(folder, evaluation(age, encoder, [made_up_result(age, "T1w", years, guess)]))
        if encoder != "histogram":
            dice = numpy_generator(2, encoder).beta(6 + quality, 2, 20)
            found = [made_up_result(seg, "all", np.full(20, np.nan), dice)]
            write(folder, evaluation(seg, encoder, found, "nnunet", seen_in_pretraining=7))
    return folder


def run(results: Path, out: Path, *options: str) -> Path:
    main(["leaderboard", str(results), "--baseline", "theirs", "--out", str(out), *options])
    return out


@pytest.fixture(scope="module")
def out(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(results, tmp_path_factory.mktemp("board") / "board")


def test_the_csv_has_every_figure_with_delong_and_holm_over_an_encoders_cells(out):
    rows = list(csv.DictReader((out / "leaderboard.csv").read_text().splitlines()))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert len({(r["encoder"], r["task"], r["modality"], r["metric"], r["protocol"]) for r in rows}) == len(
        rows
    )
    mine = [r for r in rows if (r["encoder"], r["metric"]) == ("ours", "auroc") and r["value"]]
    assert [r["modality"] for r in mine] == ["t1", "flair", "all"]
    expected = []
    for row in mine:
        labels, ours = predictions("ours", row["modality"])
        estimate, p = delong(labels, ours, predictions("theirs", row["modality"])[1])
        assert float(row["difference"]) == pytest.approx(estimate.value)
        assert (row["num_subjects"], row["num_compared"], row["trials"]) == ("60", "60", "4")
        expected.append(p)
    assert [float(r["p"]) for r in mine] == pytest.approx(expected)
    assert [float(r["p_holm"]) for r in mine] == pytest.approx(holm(expected))
    assert all(not r["difference"] for r in rows if r["encoder"] == "theirs")
    refused = [r for r in rows if r["refused"]]
    assert len(refused) == 4 and all(r["modality"] == "t2" and not r["value"] for r in refused)


def test_the_page_is_one_file_with_marks_reasons_and_published_scores_apart(out):
    text = (out / "index.html").read_text()
    assert_self_contained(text)
    assert (
        text.count("data:image/png") == 10
    )  # linear: means, 2 of cells, bars, ROC and calibration, bars; nnunet: means, cells, bars
    assert "histogram (trivial baseline)" in text and "untrained-tiny (not pre-trained)" in text
    assert "theirs (baseline)" in text and "refused: a class has 3 subjects" in text
    measured, published = text.split("Published, not measured here")
    assert "0.921" in published and "0.921" not in measured
    assert "mean of the published classification tasks" in published and "VoCo" in published


def test_markdown_and_latex_hold_the_same_table(out):
    markdown, latex = ((out / f"leaderboard.{end}").read_text() for end in ("md", "tex"))
    rows = [
        line.split(" | ")[1] for line in markdown.split("## linear")[1].splitlines() if line.startswith("| ")
    ]
    names = ["ours", "theirs (baseline)", "histogram (trivial baseline)", "untrained-tiny (not pre-trained)"]
    assert rows[:5] == ["encoder", *names]
    assert latex.count(r"\toprule") == latex.count(r"\end{tabular}") == 4
    assert "cross-modality, AUROC of 1 cell" in latex and r"\begin{tabular}{llll" in latex


def test_names_are_escaped_in_every_format(tmp_path):
    """What is somebody's name is no markup of ours."""
    labels, odd = np.arange(40) % 2.0, r"a_b|5 % & {x} \ <b>*R²*</b>"
    scores = numpy_generator(0, "odd").standard_normal(40) + labels
    for place, encoder in enumerate((odd, "ours")):
        found = evaluation(GRADE, encoder, [made_up_result(GRADE, "t1", labels, scores * (place - 0.5))])
        (tmp_path / "r").mkdir(exist_ok=True)
        (tmp_path / "r" / f"{place}.json").write_text(json.dumps(found.to_dict()))
    main(["leaderboard", str(tmp_path / "r"), "--baseline", odd, "--out", str(tmp_path)])
    page, markdown, latex = ((tmp_path / name).read_text() for name in NAMED)
    assert "a_b|5 % &amp; {x} \\ &lt;b&gt;*R²*&lt;/b&gt;" in page and "<b>" not in page
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert any(r"| a_b\|5 % & {x} \\ \<b>\*R²\*\</b> (baseline) |" in row for row in rows)
    table = latex.split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert r"a\_b|5 \% \& \{x\} \textbackslash \space $<$b$>$*R$^2$*$<$/b$>$ (baseline)" in table
    assert "R²" not in latex
    (row, _) = csv.DictReader((tmp_path / "leaderboard.csv").read_text().splitlines()[:3])
    assert row["encoder"] == odd


def test_whoever_lacks_a_cell_is_not_ranked(results):
    board = make_leaderboard(read_results([results]), "theirs", "auroc")
    _, lines = means_table(board, "linear")
    assert [(line[0], line[1].split()[0]) for line in lines] == [
        ("1", "ours"), ("2", "theirs"), ("3", "histogram"), ("–", "untrained-tiny"),
    ]  # fmt: skip
    assert board.groups("linear") == [
        "in-domain",
        "cross-modality",
        "multi-modal",
        "regression: age in years",
    ]
    mean = board.mean("linear", "regression: age in years", "ours")
    assert mean.metric == "mae" and mean.difference.estimate.value < 0


def test_holm_of_averages_is_over_encoders_and_scenarios(results):
    board = make_leaderboard(read_results([results]), "theirs", "auroc")
    compared = [mean for mean in board.means if mean.protocol == "linear" and mean.difference]
    assert len(compared) == 3 * 4 - 1
    assert [m.p_holm for m in compared] == pytest.approx(holm([m.difference.p for m in compared]))


def test_warnings_come_before_the_table(results, out, tmp_path):
    board = make_leaderboard(read_results([results]), "theirs", "auroc")
    said = " ".join(warnings(board))
    assert "unequal numbers of configurations" in said and "ours 1 to 4, theirs 1" in said
    assert "7 scans of brats18-seg were in the pre-training of ours" in said
    assert "No trivial baseline" not in said
    assert "brats18-grade, t2, linear: refused for" in " ".join(remarks(board))
    text = (out / "index.html").read_text()
    assert text.index("unequal numbers") < text.index("<table>")
    alone = make_leaderboard(read_results(sorted(results.glob("*ours*"))), "ours", "auroc")
    assert "No trivial baseline" in " ".join(warnings(alone))


def test_a_comparison_on_fewer_subjects_is_said(tmp_path):
    labels, scores = predictions("ours", "t1")
    names = np.array([f"s{i:03d}" for i in range(NUMBER)])
    short = made_up_result(GRADE, "t1", labels[:50], scores[:50], subjects=names[:50])
    other = made_up_result(GRADE, "flair", 1 - labels, scores, subjects=names)
    write(tmp_path, evaluation(GRADE, "a", [short, other]))
    found = [made_up_result(GRADE, m, labels, predictions("theirs", m)[1]) for m in ("t1", "flair")]
    write(tmp_path, evaluation(GRADE, "b", found))
    board = make_leaderboard(read_results([tmp_path]), "a", "auroc")
    said = " ".join(remarks(board))
    assert "b, brats18-grade, t1, linear: compared on the 50 of 60 subjects" in said
    assert "b, brats18-grade, flair, linear: not compared, the labels of 60 subjects differ" in said


def test_another_figure_ranks_too(results):
    board = make_leaderboard(read_results([results]), "theirs", "brier")
    assert board.encoders("linear")[0] == "ours"  # whose Brier score is the lowest
    assert {mean.metric for mean in board.means} == {"brier", "mae", "dice"}


@pytest.mark.parametrize(
    ("baseline", "metric", "line"),
    [
        ("nobody", "auroc", "no results of 'nobody' .*ours"),
        ("ours", "accuracy", "no task has the figure 'accuracy' .*auroc"),
        ("ours", "calibration_error", "no task has the figure"),
    ],
)
def test_a_baseline_or_figure_that_is_not_there(results, baseline, metric, line):
    with pytest.raises(ConfigError, match=line):
        make_leaderboard(read_results([results]), baseline, metric)


def test_segmentations_alone_are_ranked_by_dice_without_being_told(results, tmp_path):
    files = [str(path) for path in sorted(results.glob("*__nnunet.json"))]
    main(["leaderboard", *files, "--baseline", "theirs", "--out", str(tmp_path)])
    assert "# Leaderboard: Dice, against theirs" in (tmp_path / "leaderboard.md").read_text()


def test_results_that_are_all_refused_are_one_line(tmp_path):
    write(
        tmp_path,
        evaluation(GRADE, "a", [ContrastResult("t2", "in-domain", refused="a class has 3 subjects")]),
    )
    with pytest.raises(DataError, match="nothing was scored: a class has 3 subjects"):
        make_leaderboard(read_results([tmp_path]), "a")


def test_an_encoder_alone_has_a_board_without_differences(results, tmp_path, capsys):
    files = [str(path) for path in sorted(results.glob("*ours*"))]
    main(["leaderboard", *files, "--baseline", "ours", "--out", str(tmp_path)])
    assert f"open {tmp_path / 'index.html'}" in capsys.readouterr().out.replace("\n", "")
    assert "Task by task" not in (tmp_path / "index.html").read_text()


def test_no_result_is_one_line(tmp_path, capsys):
    (tmp_path / "x.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(SystemExit) as caught:
        main(["leaderboard", str(tmp_path / "x.json"), "--baseline", "a"])
    assert caught.value.code == 2 and capsys.readouterr().err.strip().count("\n") == 0


def test_figures_show_what_the_tables_say(results):
    board = make_leaderboard(read_results([results]), "theirs", "auroc")
    panels = means_figure(board, "linear").axes
    assert [axis.get_title() for axis in panels if axis.get_title()] == board.groups("linear")
    drawn = sorted(line.get_xdata()[0] for line in panels[0].lines if line.get_marker() == "o")
    told = [
        mean.difference.estimate.value
        for mean in board.means
        if mean.group == "in-domain" and mean.difference
    ]
    assert drawn == pytest.approx(sorted(told))
    (ours, *_) = cells_figure(board, "linear", "auroc").axes
    places = [f"brats18-grade · {contrast}" for contrast in ("t1", "flair", "all")]
    assert [label.get_text() for label in ours.get_yticklabels()] == places
    assert len(bars_figure(board, "linear", "brats18-grade").axes) == 3
    axis = roc_figure(board, "linear", "brats18-grade").axes[0]
    curve = next(line for line in axis.lines if line.get_label() == "ours")
    area = np.trapezoid(curve.get_ydata(), curve.get_xdata())
    assert area == pytest.approx(board.headline("linear", "brats18-grade", "t1", "ours").estimate.value)


def test_what_an_encoder_was_pretrained_on_is_marked_in_every_format(tmp_path):
    labels = np.arange(40) % 2.0
    scores = numpy_generator(0, "mark").standard_normal(40) + labels
    results = [made_up_result(GRADE, "t1", labels, scores)]
    known = {"theirs": "brainmvp:x.pt", "openmind": "nnssl:a/OpenMind", "other": "brainiac:x"}
    for encoder, spec in known.items():
        found = evaluation(GRADE, encoder, results, exposure=known_exposure(spec, "ucsf-pdgm"))
        write(tmp_path / "r", found)
    write(tmp_path / "r", evaluation(GRADE, "ours", results, seen_in_pretraining=0))
    board = make_leaderboard(read_results([tmp_path / "r"]), "ours")
    said = "\n".join(warnings(board))
    assert "is not unseen to theirs: pre-trained on UCSF-PDGM, 495 cases" in said
    assert "to ours" not in said and "to openmind" not in said
    assert "Unknown whether other was pre-trained on people of brats18-grade" in said
    assert shown_name(board, "theirs") == "theirs (has seen some of it)"
    assert shown_name(board, "ours") == "ours (baseline)"
    marks = {"theirs": "yes", "openmind": "no", "other": "unknown", "ours": "no"}
    _, lines = task_table(board, "linear", "brats18-grade")
    assert {line[1].split()[0]: line[-1] for line in lines} == marks
    assert dict(entries_frame(board)[["encoder", "pretrained_on_it"]].to_numpy()) == marks


def test_files_of_before_that_hold_words_alone_are_marked_as_seen(tmp_path):
    labels = np.arange(40) % 2.0
    path = write(tmp_path, evaluation(GRADE, "theirs", [made_up_result(GRADE, "t1", labels, labels - 0.5)]))
    content = json.loads(path.read_text()) | {"exposure": "its lists hold it"}
    path.write_text(json.dumps(content))
    (cell,) = read_results([path])
    assert cell.exposure.contaminated and cell.pretrained_on_it == "yes"
