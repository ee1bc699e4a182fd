"""Work that several processes share."""

from __future__ import annotations

from mdae.claims import claimed


def test_a_piece_is_one_process_s_at_a_time_and_free_again(tmp_path):
    lock = tmp_path / "Müller 05" / "lock"
    with claimed(lock) as first, claimed(lock) as second:
        assert first and not second
    with claimed(lock, wait=True) as again:
        assert again
