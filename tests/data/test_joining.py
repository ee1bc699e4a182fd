"""Labels as clinics keep them find their scans; what finds none, or says two things, is told."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mdae.data.joining import join_labels, label_column
from mdae.data.tables import attach_labels, read_table
from mdae.errors import DataError

WHERE = Path("labels.csv")


def scans(*rows: tuple[str, str]) -> pd.DataFrame:
    """Features of (subject, session)."""
    return pd.DataFrame(
        {
            "scan": [f"{subject}_{session}_T1w" for subject, session in rows],
            "subject": [subject for subject, _ in rows],
            "session": [session for _, session in rows],
            "path": [f"/data/{subject}/{session}.nii.gz" for subject, session in rows],
            "f0000": range(len(rows)),
        }
    )


FOUR = scans(("001", "01"), ("001", "02"), ("002", "01"), ("003", "01"))


def joined(features: pd.DataFrame, label: str = "y", **columns: object) -> tuple[dict[int, object], str]:
    """The label of each row that has one, by its feature, and the notes."""
    found = join_labels(features, pd.DataFrame(columns), label, WHERE)
    return dict(zip(found.rows["f0000"], found.rows[label], strict=True)), "; ".join(found.notes)


@pytest.mark.parametrize(
    "header",
    [
        *(
            "subject",
            "Subject",
            "SUBJECT",
            "Subject ID",
            "subject_id",
            "participant_id",
            "Participant ID",
            "PatientID",
        ),
        *("patient id", "Patient-ID", "ID", "Pseudonym"),
    ],
)
def test_whatever_the_column_of_people_is_called(header):
    assert joined(FOUR, **{header: ["SUB-001", "sub-002", " 003 "], "y": ["a", "b", "c"]})[0] == {
        0: "a",
        1: "a",
        2: "b",
        3: "c",
    }


def test_a_label_is_found_under_its_name_with_other_capitals():
    assert joined(FOUR, "diagnosis", Subject=["001"], **{"Diagnosis ": ["x"]})[0] == {0: "x", 1: "x"}


def test_labels_of_sessions_go_to_their_sessions():
    found, _ = joined(
        FOUR, subject=["001", "001", "002"], session=["ses-01", "ses-02", "ses-01"], y=[0, 1, 1]
    )
    assert found == {0: 0, 1: 1, 2: 1}
    found, said = joined(FOUR, subject=["1", "1", "2"], visit=["1", "2", "1"], y=[0, 1, 1])
    assert found == {0: 0, 1: 1, 2: 1} and "2 sessions are matched as numbers" in said


def test_a_row_without_a_session_speaks_of_all_others():
    found, _ = joined(FOUR, subject=["001", "001"], session=["02", ""], y=[1, 0])
    assert found == {0: 0, 1: 1}


def test_sessions_that_have_nothing_in_common_leave_labels_by_subject():
    found, said = joined(
        FOUR, subject=["001", "001", "002"], visit=["baseline", "month 12", "baseline"], y=[1, 1, 0]
    )
    assert (
        found == {0: 1, 1: 1, 2: 0}
        and "no session in common with the scans, e.g. 'baseline' and '01'" in said
    )


def test_sessions_of_labels_alone_must_agree():
    plain = FOUR.drop(columns="session")
    found, said = joined(
        plain, subject=["001", "001", "002", "002"], session=["a", "b", "a", "b"], y=[0, 1, 1, 1]
    )
    assert (
        found == {2: 1} and "1 subject is left out, for their rows contradict each other, e.g. '001'" in said
    )


def test_contradicting_rows_leave_a_subject_out_and_repeated_ones_do_not():
    found, said = joined(FOUR, subject=["001", "001", "002", "002", "003"], y=["a", "a", "a", "b", "b"])
    assert found == {0: "a", 1: "a", 3: "b"} and "e.g. '002 01'" not in said and "e.g. '002'" in said


def test_a_column_of_scanners_does_not_win_the_join():
    found, said = joined(FOUR, scan=["Siemens", "GE", "GE"], subject=["001", "002", "003"], y=["a", "b", "c"])
    assert found == {0: "a", 1: "a", 2: "b", 3: "c"}
    assert "joined by subject, for column 'scan' names fewer of these scans" in said


def test_neither_do_scanners_that_are_called_like_scans():
    numbered = FOUR.assign(scan=["1", "2", "3", "4"])
    found, _ = joined(numbered, scan=[1, 1, 2], subject=["001", "002", "003"], y=["a", "b", "c"])
    assert found == {0: "a", 1: "a", 2: "b", 3: "c"}


def test_scans_win_where_they_are_scans():
    found, _ = joined(FOUR, scan=list(FOUR["scan"]), subject=list(FOUR["subject"]), y=[0, 1, 1, 0])
    assert found == {0: 0, 1: 1, 2: 1, 3: 0}


def test_the_better_of_two_columns_of_people_is_taken():
    found, _ = joined(FOUR, subject=["MRI head", "MRI head"], PatientID=["001", "002"], y=["a", "b"])
    assert found == {0: "a", 1: "a", 2: "b"}


def test_paths_are_meant_from_the_tables_folder(tmp_path):
    features = FOUR.assign(path=[str(tmp_path / f"{i}.nii.gz") for i in range(4)])
    labels = pd.DataFrame({"path": ["0.nii.gz", "./1.nii.gz", "elsewhere/2.nii.gz"], "y": [0, 1, 2]})
    found = join_labels(features, labels, "y", tmp_path / "labels.csv")
    assert found.rows["y"].tolist() == [0, 1, 2] and "1 path is matched by the file's name" in found.notes[0]


def test_lost_zeros_are_matched_where_nobody_else_is_meant_and_told():
    found, said = joined(FOUR, subject=[1, 2.0, "3.0"], y=["a", "b", "c"])
    assert (
        found == {0: "a", 1: "a", 2: "b", 3: "c"}
        and "3 subjects are matched as numbers, e.g. '1' to '001'" in said
    )
    two = scans(("07", ""), ("007", ""), ("8", ""))
    found, said = joined(two, subject=["7", "8"], y=["a", "b"])
    assert found == {2: "b"} and "not matched, for there are several of the name: 1 subject, e.g. '7'" in said


def test_unmatched_rows_on_either_side_are_counted_with_examples():
    _, said = joined(FOUR, subject=["001", "Q9", "Q8", "Q7", "Q6"], y=[0, 1, 0, 1, 1])
    assert "4 of 5 labelled rows find no scan, e.g. 'Q9', 'Q8', 'Q7'" in said
    assert "2 of 4 scans have no label, e.g. '002', '003'" in said
    assert joined(FOUR, subject=["001", "002", "003"], y=[0, 1, 1])[1] == ""


def test_words_between_words_are_labels():
    """A table of three classes stays one of three, whatever the third is called."""
    for word in ("None", "NA", "null", "N/A", "nan", "unknown"):
        found, _ = joined(FOUR, subject=["001", "002", "003"], y=["IDH", "wildtype", word])
        assert set(found.values()) == {"IDH", "wildtype", word}


def test_words_between_numbers_are_no_numbers_and_are_told():
    found, said = joined(FOUR, subject=["001", "002", "003"], y=["61.5", "NA", "44"])
    assert found == {0: 61.5, 1: 61.5, 3: 44.0} and "1 rows say 'NA' (1), which is taken for no label" in said


def test_blank_cells_bids_word_and_words_of_the_user_are_no_label():
    cells = pd.Series(["a", " ", "n/a", "b", "lost", None])
    values, notes = label_column(cells, ["lost"])
    assert values.dropna().tolist() == ["a", "b"]
    assert notes == ["2 rows have no label", "2 rows say 'n/a' (1), 'lost' (1), which is taken for no label"]
    kept, _ = label_column(pd.Series(["1", "2", "None", "n/a"]), words=True)
    assert kept.tolist() == ["1", "2", "None", "n/a"]


@pytest.mark.parametrize(
    ("columns", "label", "said"),
    [
        ({"subject": ["001"], "y": [0]}, "z", "no column 'z'; it has subject, y"),
        ({"colour": ["001"], "y": [0]}, "y", "no column to join by; it has colour, y"),
        ({"subject": ["zz"], "y": [0]}, "y", "no subject in common with the features, e.g. 'zz' and '001'"),
        ({"subject": ["001"], "y": [""]}, "y", "no labelled row"),
        ({"subject": ["001", "001"], "y": [0, 1]}, "y", "all rows of every subject contradict"),
        ({"subject": ["001"], "path": ["a"]}, "path", "column 'path' is in the features table as well"),
    ],
)
def test_what_cannot_be_joined_has_one_line(columns, label, said):
    with pytest.raises(DataError, match=said):
        join_labels(FOUR, pd.DataFrame(columns), label, WHERE)


def test_a_file_with_everything_at_once(tmp_path, caplog):
    path = tmp_path / "Patienten.csv"
    path.write_bytes(
        "Patient ID ; Geschlecht;Größe (cm)\r\n1;männlich;181,5\r\n2; weiblich ;NA\r\n".encode("cp1252")
    )
    size = attach_labels(FOUR, read_table(path), "größe (cm)", path)
    assert size["größe (cm)"].tolist() == [181.5, 181.5]
    assert (
        "'NA' (1), which is taken for no label" in caplog.text
        and "as numbers, e.g. '1' to '001'" in caplog.text
    )
    sex = attach_labels(FOUR, read_table(path), "Geschlecht", path)
    assert sex["Geschlecht"].tolist() == ["männlich", "männlich", "weiblich"]
