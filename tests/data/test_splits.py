"""Splits: by subject, stratified, in the wanted shares, kept with the store, and what pre-training then does."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdae.cli import main
from mdae.data.splits import SplitConfig, draw_parts, read_split, split, stratify
from mdae.data.store import Store
from mdae.errors import ConfigError, DataError
from mdae.training.run import Run, open_run
from tests.conftest import short_run


def data_of(run: Run) -> str:
    """What a run's scans and parts are known by."""
    return str(run.identity(precision="32", micro_batch=2)["data"])


@pytest.fixture
def copy(store, tmp_path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "store"))


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    val=st.floats(0, 0.4),
    test=st.floats(0, 0.4),
    seed=st.integers(0, 9),
)
def test_every_stratum_is_cut_in_the_same_shares(sizes, val, test, seed):
    strata = {f"class {i}": [f"{i}-{j}" for j in range(size)] for i, size in enumerate(sizes)}
    parts = draw_parts(strata, val=val, test=test, seed=seed)
    everybody = {name for names in strata.values() for name in names}
    assert parts.keys() == everybody
    counts = Counter(parts.values())
    assert (
        abs(counts["val"] - val * len(everybody)) <= 1.5
        and abs(counts["test"] - test * len(everybody)) <= 1.5
    )
    for names in strata.values():
        assert abs(sum(parts[name] == "val" for name in names) - val * len(names)) <= 2
    assert parts == draw_parts(strata, val=val, test=test, seed=seed)


def test_strata_are_classes_fifths_of_numbers_and_the_unlabelled():
    names = [f"{i:02d}" for i in range(50)]
    ages = stratify(names, {name: float(i) for i, name in enumerate(names)})
    assert sorted(map(len, ages.values())) == [10] * 5
    sexes = stratify(names, {name: "f" if i % 2 else "m" for i, name in enumerate(names[:40])})
    assert {key: len(value) for key, value in sexes.items()} == {
        "class m": 20,
        "class f": 20,
        "unlabelled": 10,
    }
    assert len(stratify(names, {})) == 1


def test_a_split_from_participants_is_stratified_and_is_a_table_of_labels(cohort, copy, capsys):
    people = cohort / "participants.tsv"
    options = ["--val", "0.25", "--test", "0.25", "--labels", str(people), "--label", "lesion"]
    main(["split", str(copy), *options])
    assert "6 train, 3 val, 3 test subjects" in capsys.readouterr().out
    table = pd.read_csv(copy / "splits" / "default.csv", dtype={"subject": str})
    truth = pd.read_csv(people, sep="\t").set_index("participant_id")["lesion"]
    assert all(truth[f"sub-{row.subject}"] == row.lesion for row in table.itertuples())
    by_part = table.groupby("split")["lesion"].mean()
    assert all(abs(by_part - truth.mean()) < 0.2), "about as many ill in each part"
    assert {scan.subject for scan in Store.open(copy).scans} == set(table["subject"])


def test_pretraining_follows_a_split_and_never_sees_its_test_subjects(copy, caplog):
    split(SplitConfig(store=copy, name="a", val=0.2, test=0.3, seed=4))
    parts = read_split(copy, "a")
    run = open_run(short_run(copy, Path("unused"), split="a"))
    assert run.validation is not None
    assert {parts[run.train(i).scan.subject] for i in range(100)} == {"train"}
    assert {parts[run.validation(i).scan.subject] for i in range(100)} == {"val"}
    assert "test" not in {parts[scan.subject] for scan in run.scans}, "nor does the model claim to know them"
    other = open_run(short_run(copy, Path("unused"), split="", val_fraction=0.5))
    assert data_of(run) != data_of(other)
    lines = (copy / "splits" / "a.csv").read_text().splitlines()
    (copy / "splits" / "b.csv").write_text("\n".join(lines[:-1]) + "\n")
    open_run(short_run(copy, Path("unused"), split="b"))
    assert "1 of 12 subjects" in caplog.text and "are left out" in caplog.text


def test_a_table_of_scans_will_do_for_labels(cohort, copy):
    people = pd.read_csv(cohort / "participants.tsv", sep="\t").rename(columns={"participant_id": "subject"})
    twice = pd.concat([people.assign(scan="T1w", path="a"), people.assign(scan="FLAIR", path="b")])
    twice.to_csv(copy / "scans.csv", index=False)
    split(SplitConfig(store=copy, labels=copy / "scans.csv", label="lesion", val=0.25))
    assert set(pd.read_csv(copy / "splits" / "default.csv")["lesion"]) == {0, 1}


def test_the_data_of_a_run_are_known_by_their_content(copy):
    def data() -> str:
        return data_of(open_run(short_run(copy, Path("unused"), contrasts=("T1w",))))

    def edit(contrast: str) -> None:
        rows = [json.loads(line) for line in manifest.read_text().splitlines()]
        next(row for row in rows if row["contrast"] == contrast)["content"] = "other voxels"
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))

    before, manifest = data(), copy / "manifest.jsonl"
    edit("FLAIR")
    assert data() == before, "no part of the run"
    edit("T1w")
    assert data() != before


def test_a_weight_of_nothing_is_refused_and_of_zero_leaves_out(copy):
    with pytest.raises(DataError, match="no scan of contrast T9"):
        open_run(short_run(copy, Path("unused"), contrast_weights={"T9": 1.0}))
    run = open_run(short_run(copy, Path("unused"), contrast_weights={"T1w": 0.0}))
    assert {scan.contrast for scan in run.scans} == {"FLAIR"}
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError):
            short_run(copy, Path("unused"), contrast_weights={"T1w": weight})


def test_a_split_stays_as_it_is(copy):
    path = split(SplitConfig(store=copy))
    before = path.read_bytes()
    with pytest.raises(DataError, match="results may hang on it"):
        split(SplitConfig(store=copy, seed=1))
    assert path.read_bytes() == before


def test_bad_splits_have_one_clear_line(copy):
    with pytest.raises(DataError, match="no such split; there are none"):
        read_split(copy, "default")
    (copy / "splits").mkdir()
    (copy / "splits" / "odd.csv").write_text("subject,split\n0001,dev\n")
    with pytest.raises(DataError, match="a part named 'dev'"):
        read_split(copy, "odd")
    (copy / "splits" / "odd.csv").write_text("who\n0001\n")
    with pytest.raises(DataError, match="not a split"):
        read_split(copy, "odd")
    with pytest.raises(DataError, match="12 subjects are too few for a test part"):
        split(SplitConfig(store=copy, name="small", test=0.01))


@pytest.mark.parametrize(
    "changes", [{"val": 0.7, "test": 0.4}, {"label": "x"}, {"label": "split"}, {"name": "../x"}]
)
def test_nonsense_is_refused(copy, changes):
    with pytest.raises(ConfigError):
        SplitConfig(store=copy, **changes)


def named(copy: Path, name: Callable[[int], str]) -> Path:
    """The store with other subjects, by their number."""
    store = Store.open(copy)
    numbers = {subject: number for number, subject in enumerate(sorted({s.subject for s in store.scans}))}
    for scan in store.scans:
        store.describe(replace(scan, subject=name(numbers[scan.subject])))
    (copy / "manifest.jsonl").unlink(missing_ok=True)
    return copy


def test_cases_of_one_person_stay_together_by_a_table(copy, caplog):
    store = Store.open(named(copy, lambda number: f"case_{number:03d}"))
    rows = [f"{scan.scan_id},person-{int(scan.subject[-3:]) // 2}" for scan in store.scans]
    table = copy / "people.csv"
    table.write_text("\n".join(["scan,subject", *rows]))
    path = split(SplitConfig(store=copy, val=0.3, test=0.3, subjects=table, seed=1))
    parts = read_split(copy, "default")
    assert len(parts) == 12 and len(set(parts.values())) == 3 and path.exists()
    assert all(parts[f"case_{number:03d}"] == parts[f"case_{number + 1:03d}"] for number in range(0, 12, 2))
    table.write_text("\n".join(["scan,subject", *(f"{s.scan_id},{s.scan_id}" for s in store.scans)]))
    with pytest.raises(DataError, match="the store's subject case_000 is"):
        split(SplitConfig(store=copy, name="b", subjects=table))


def test_what_may_be_visits_and_one_subject_are_said(copy, caplog):
    split(SplitConfig(store=named(copy, lambda number: f"A{number // 2:04d}_{number % 2 + 1:02d}")))
    assert "A0000_01 and A0000_02" in caplog.text and "may be on both sides" in caplog.text
    named(copy, lambda number: "IXI-T1")
    with pytest.raises(DataError, match=r"1 subject is too few .*--subject-from"):
        split(SplitConfig(store=copy, name="b"))
    open_run(short_run(copy, Path("unused")))
    assert "all 24 scans are of one subject, IXI-T1, so none can be held out" in caplog.text
