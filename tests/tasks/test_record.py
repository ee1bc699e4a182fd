"""A user's own record: what is of the wrong kind is one line, what a table says is what counts."""

from __future__ import annotations

import pytest

from mdae.errors import ConfigError
from mdae.tasks.catalogue import find_task
from mdae.tasks.record import LabelRule, task_from_dict

RECORD = "name: a\ntitle: b\nlayout: table\ncontrasts: [T1w]\n"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("label: lesion\n", "'lesion' where the fields of a LabelRule are wanted"),
        ("label: {column: x, above: sixty}\n", "could not convert string to float: 'sixty'"),
        ("label: {column: x, positive: yes}\n", "write it in quotes"),
        ("label: {column: x, positive: 1}\nreferences: MAE\n", "where the fields of a Reference are wanted"),
        ("label: {column: x, classes: [a, b]}\n", "with the classes .'a', 'b'. .name three or more"),
        ("label: {column: x, classes: [a, b, c], above: 3}\n", "name three or more and nothing else"),
        ("kind: survival\nlabel: {column: x}\n", "without a time and an event alone"),
        ("kind: survival\nlabel: {column: x, event: y, above: 3}\n", "without a time and an event alone"),
        ("kind: ranking\nlabel: {column: x}\n", "a task of kind 'ranking' .use one of classification"),
        ("label: {column: x, positive: 1}\nlayout: bidz\n", "no layout 'bidz' .use one of brats18"),
    ],
)
def test_a_value_of_the_wrong_kind_is_one_line(tmp_path, lines, said):
    (tmp_path / "own.yaml").write_text(RECORD + lines)
    with pytest.raises(ConfigError, match=said) as caught:
        find_task(str(tmp_path / "own.yaml"))
    assert "\n" not in str(caught.value)


def test_numbers_for_text_are_text_and_text_for_numbers_numbers(tmp_path):
    (tmp_path / "own.yaml").write_text(
        RECORD
        + "note:\nlabel: {column: 7, above: '60'}\nreferences: [{encoder: x, metric: AUROC, value: 1, source: y}]\n"
    )
    task = find_task(str(tmp_path / "own.yaml"))
    assert task.label == LabelRule(column="7", above=60.0) and task.note == ""
    assert task.references[0].value == 1.0


def test_a_word_for_missing_counts_where_the_rule_names_it():
    rule = LabelRule(column="x", positive=("severe",), negative=("none",))
    assert (rule.value({"x": "none"}), rule.value({"x": "unknown"})) == (0.0, None)


def test_what_is_no_finite_number_is_no_label():
    assert [LabelRule(column="x").value({"x": text}) for text in ("inf", "-nan", "3")] == [None, None, 3.0]


def test_several_classes_are_numbered_in_order_and_others_are_no_label():
    rule = LabelRule(column="x", classes=("glioma", "2", "none"))
    assert [rule.value({"x": text}) for text in ("Glioma", "2.0", "none", "unknown", "cyst")] == [
        0,
        1,
        2,
        None,
        None,
    ]


def test_a_time_is_negative_where_the_subject_was_lost():
    rule = LabelRule(column="days", event="died", happened=("1",))
    rows = [("300", "1"), ("300.5", "0"), ("0", "1"), ("-4", "1"), ("", "1"), ("300", "1.0")]
    assert [rule.value({"days": days, "died": died}) for days, died in rows] == [
        300,
        -300.5,
        None,
        None,
        None,
        300,
    ]


def test_records_and_results_of_before_say_contrasts(tmp_path):
    """Files that people have keep their key; a record may have either."""
    found = []
    for key in ("contrasts", "modalities"):
        (tmp_path / "own.yaml").write_text(
            f"name: a\ntitle: b\nlayout: table\n{key}: [T1w, FLAIR]\nkind: segmentation\n"
        )
        found.append(find_task(str(tmp_path / "own.yaml")))
    assert found[0] == found[1] and found[0].contrasts == ("T1w", "FLAIR")
    written = found[0].to_dict()
    assert written["modalities"] == ("T1w", "FLAIR") and "contrasts" not in written
    assert task_from_dict(written) == found[0]
