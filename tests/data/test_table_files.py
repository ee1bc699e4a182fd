"""Tables as people save them: encodings, separators, spreadsheets; what is no table is refused by the true reason."""

from __future__ import annotations

import gzip

import pandas as pd
import pytest

from mdae.data.table_files import read_cells
from mdae.data.tables import read_table, read_text_table
from mdae.errors import DataError

ROWS = [("subject", "diagnosis"), ("Müller-01", "gesund"), ("Sørensen", "krank"), ("007", "None")]
EXPECTED = [dict(zip(ROWS[0], row, strict=True)) for row in ROWS[1:]]


def text(mark: str = ",", end: str = "\n") -> str:
    return "".join(mark.join(row) + end for row in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv", text().encode()),
        ("mark.csv", text().encode("utf-8-sig")),
        ("latin.csv", text().encode("latin-1")),
        ("windows.csv", text(end="\r\n").encode("cp1252")),
        ("little.csv", text().encode("utf-16")),
        ("big.csv", b"\xfe\xff" + text().encode("utf-16-be")),
        ("unmarked.csv", text().encode("utf-16-le")),
        ("unmarked-big.csv", text().encode("utf-16-be")),
        ("wide.csv", text().encode("utf-32")),
        ("semicolons.csv", text(";").encode("latin-1")),
        ("tabs.csv", text("\t").encode()),
        ("commas.tsv", text(",").encode()),
        ("tabs.tsv", text("\t").encode()),
        ("tabs.txt", text("\t").encode("utf-16")),
        ("bars.csv", text("|").encode()),
        ("declared.csv", ("sep=;\r\n" + text(";")).encode()),
        ("old-mac.csv", text(end="\r").encode()),
        ("trailing.csv", text(end=";\n").replace(",", ";").encode()),
        ("padded.csv", text().replace(",", " , ").replace("007", "\u00a0007\u200b").encode()),
        ("blank-lines.csv", text(end="\n\n , \n").encode()),
        ("packed.csv.gz", gzip.compress(text().encode(), mtime=0)),
        ("quoted.csv", text().replace("gesund", '"gesund"').encode()),
    ],
)
def test_the_same_table_however_it_is_saved(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_cells(tmp_path / name).to_dict("records") == EXPECTED


@pytest.mark.parametrize("row", ["s1;a,b", 's1;"a;b"', "s1;1.234,5"])
def test_a_separator_inside_cells_misleads_nobody(tmp_path, row):
    (tmp_path / "t.csv").write_text(f"subject;age, years\n{row}\n")
    assert list(read_cells(tmp_path / "t.csv").columns) == ["subject", "age, years"]


def test_one_column_alone_is_a_table(tmp_path):
    (tmp_path / "t.csv").write_text("subject\ns1\ns2\n")
    assert read_cells(tmp_path / "t.csv")["subject"].tolist() == ["s1", "s2"]


def test_excel_is_read_as_it_is_shown(tmp_path, caplog):
    table = pd.DataFrame(
        {"PatientID": ["007", "008"], "age": [61.0, 44.5], "born": pd.to_datetime(["1950-03-01"] * 2)}
    )
    with pd.ExcelWriter(tmp_path / "t.xlsx") as book:
        table.to_excel(book, sheet_name="Patients", index=False)
        table.to_excel(book, sheet_name="Notes", index=False)
    cells = read_cells(tmp_path / "t.xlsx")
    assert cells.to_dict("list") == {
        "PatientID": ["007", "008"],
        "age": ["61", "44.5"],
        "born": ["1950-03-01"] * 2,
    }
    assert "sheet 'Patients' is read; there are Notes too" in caplog.text
    (tmp_path / "renamed.csv").write_bytes((tmp_path / "t.xlsx").read_bytes())
    assert read_cells(tmp_path / "renamed.csv").equals(cells), "what it is, not what it is called"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"", "the file is empty"),
        ("t.csv", b"\xef\xbb\xbf", "the file is empty"),
        ("t.csv", b" \r\n\n", "the file is empty"),
        ("t.csv", b",,\n,,\n", "the file is empty"),
        ("t.tsv", b"subject\tage\n", r"a header \(subject, age\) and no row"),
        ("t.csv", b"subject,age\ns1,2,3\n", "row 2 has 3 cells, and the header 2"),
        ("t.csv", b"subject,age,age\ns1,2,3\n", "column 'age' is there twice"),
        ("t.csv", b'subject,age\n"s1,2\n', "not a table that can be read"),
        ("t.csv", b"\x89PNG\r\n\x1a\n\0\0\0\0\1\2\3", "no text but binary data"),
        ("t.csv", b"\x1f\x8b\x08broken", "a damaged gzip file"),
        ("t.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook of the old kind"),
        ("t.xlsx", b"PK\x03\x04nothing", "a zip file that is no Excel workbook"),
        ("t.parquet", b"subject,age\n", "not a Parquet table"),
        ("t.csv", b"\xff\xfe\x00", "damaged UTF-16 text"),
    ],
)
def test_what_is_no_table_has_one_true_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_table(tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_folder_and_a_missing_file_have_one_line(tmp_path):
    with pytest.raises(DataError, match="no such table"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path)


def test_a_guessed_encoding_is_told(tmp_path, caplog):
    (tmp_path / "t.csv").write_bytes("subject,name\ns1,Müller\n".encode("cp1252"))
    read_table(tmp_path / "t.csv")
    assert "no UTF-8, read as Latin-1 (e.g. 'Müller')" in caplog.text


def test_numbers_are_numbers_and_names_are_text(tmp_path):
    (tmp_path / "t.csv").write_text("Subject;age;score;visit;word\n007;61,5;3;01;NA\n010;44;;02;1\n")
    table = read_table(tmp_path / "t.csv")
    assert table["Subject"].tolist() == ["007", "010"] and table["visit"].tolist() == ["01", "02"]
    assert table["age"].tolist() == [61.5, 44.0] and table["score"].isna().tolist() == [False, True]
    assert table["word"].tolist() == ["NA", "1"], "a word is not thrown away in silence"


@pytest.mark.parametrize("kind", [int, float, str])
def test_subjects_of_a_typed_table_are_text(tmp_path, kind):
    pd.DataFrame({"subject": [kind(7), kind(8)], "label": [True, False]}).to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert [name.removesuffix(".0") for name in table["subject"]] == ["7", "8"]
    assert table["label"].tolist() == ["True", "False"]


def test_an_index_with_a_name_is_a_column(tmp_path):
    pd.DataFrame({"subject": ["a"], "x": [1]}).set_index("subject").to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet")["subject"].tolist() == ["a"]


def test_a_table_of_text_keeps_words_where_they_may_be_labels(tmp_path):
    (tmp_path / "t.csv").write_text("Participant ID,grade\ns1,None\ns2,n/a\ns3,\n")
    assert read_text_table(tmp_path / "t.csv", "participant_id")["grade"].tolist() == ["", "", ""]
    kept = read_text_table(tmp_path / "t.csv", "participant_id", words=True)
    assert kept["grade"].tolist() == ["None", "n/a", ""]
    with pytest.raises(DataError, match="no column 'path'; it has Participant ID, grade"):
        read_text_table(tmp_path / "t.csv", "path")
