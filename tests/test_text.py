"""Names and numbers as people read them."""

from __future__ import annotations

from mdae.text import counted


def test_one_is_singular():
    assert [counted(number, "scan") for number in (0, 1, 2)] == ["0 scans", "1 scan", "2 scans"]
    assert [counted(number, "subject is", "subjects are") for number in (1, 3)] == [
        "1 subject is",
        "3 subjects are",
    ]
