"""The command line as a user meets it: every bad input is one line and status 2, never a traceback."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import get_type_hints

import pytest

from mdae.cli import main
from mdae.commands import COMMANDS, GROUPS, words_of
from mdae.objectives import OBJECTIVES
from mdae.objectives.settings import flatten


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit status and everything said."""
    try:
        main([str(argument) for argument in arguments])
        status: object = 0
    except SystemExit as error:
        status = error.code or 0
    said = capsys.readouterr()
    assert isinstance(status, int)
    return status, said.out + said.err


def test_help_and_version(capsys):
    status, said = run(capsys, "--help")
    assert status == 0 and run(capsys) == (0, said)
    assert [line for line in said.splitlines() if line.strip() in GROUPS and not line.startswith(" ")]
    assert COMMANDS.keys() == {name for name in COMMANDS if f"  {name} " in said}
    for name in ("prepare", "pretrain", "embed", "probe", "objectives", "reconstruct", "synth", "demo"):
        assert name in said
        assert run(capsys, name, "--help")[0] == 0
    assert re.search(r"\d+\.\d+\.\d+", run(capsys, "--version")[1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("prepare", "{tmp}/nowhere", "{tmp}/store"), "no such file or folder"),
        (("prepare", "{tmp}/empty", "{tmp}/store"), r"no scan to take there"),
        (("prepare", "{tmp}/bad", "{tmp}/store"), "no scan could be prepared"),
        (("pretrain", "{tmp}/empty", "{tmp}/run"), "no store there"),
        (("pretrain", "{store}", "{tmp}/run", "--contrasts", "PET"), "no scan of contrast PET"),
        (("pretrain", "{store}", "{tmp}/run", "--steps", "0"), "give 1 or more"),
        (
            ("pretrain", "{store}", "{tmp}/run", "--objective", "mae", "--sigma-max", "1"),
            "mae has no sigma_max",
        ),
        (("pretrain", "{store}", "{tmp}/run", "--set", "ratio=1"), "mdae has no ratio .it has corruption"),
        (("pretrain", "{store}", "{tmp}/run", "--set", "p_min"), "no NAME=VALUE"),
        (
            ("pretrain", "{store}", "{tmp}/run", "--p-min", "0.2", "--set", "p_min=0.3"),
            "p_min is given twice",
        ),
        (("pretrain", "{store}", "{tmp}/run", "--objective", "simclr", "--sigma-max", "1"), "no sigma_max"),
        (
            (
                "pretrain",
                "{store}",
                "{tmp}/run",
                "--objective",
                "simclr",
                "--batch",
                "1",
                "--patch",
                16,
                16,
                16,
            ),
            "--batch",
        ),
        (("objectives", "magic"), "no objective 'magic'"),
        (("tasks", "magic"), "no task 'magic'"),
        (("encoders", "magic"), "no encoder 'magic'"),
        (("magic",), "no command 'magic'"),
        (("probee", "--help"), "no command 'probee' .did you mean mdae probe"),
        (("embed", "{tmp}/empty", "{cohort}"), r"no config\.json"),
        (("embed", "{model}", "{tmp}/empty"), r"no scan to take there"),
        (("embed", "{model}", "{cohort}", "--device", "abacus"), "no device"),
        (("probe", "{tmp}/none.csv", "{tmp}/none.csv", "--label", "x"), "no such table"),
        (("fit", "{model}", "{tmp}/none.csv", "{tmp}/out"), "no such file or folder"),
        (("fit", "{model}", "{tmp}/empty", "{tmp}/out"), "no table of labels, BIDS tree, folder of masks"),
        (("fit", "{model}", "{cohort}", "{tmp}/out", "--label", "magic"), "no column 'magic'"),
        (("fit", "{tmp}/none", "{cohort}", "{tmp}/out", "--label", "lesion"), r"no config\.json|no such"),
        (("fit", "{model}", "{cohort}", "{tmp}/out", "--event", "e", "--kind", "regression"), "--event with"),
        (("predict", "{model}", "{cohort}"), r"no fitted\.json"),
        (("predict", "{model}"), "no scans given"),
        (
            ("pretrain", "{store}", "--out", "{tmp}/run"),
            "no --out .OUT is a word of its own: mdae pretrain STORE OUT",
        ),
        (("fit", "{model}", "x.csv", "--out={tmp}/x"), "no --out .*mdae fit ENCODER LABELS OUT"),
        (("reconstruct", "{model}", "{tmp}/bad/cut.nii.gz", "{tmp}/out"), "truncated or damaged gzip"),
        (("reconstruct", "{model}", "{tmp}/bad/cut.nii.gz", "{tmp}/out", "--t", "7"), "outside"),
        (("synth", "{tmp}/bad"), "not a made-up cohort"),
        (("synth", "{tmp}/new", "--contrasts", "PET"), "no contrast PET"),
        (("demo", "{tmp}/demo", "--made-up", "1"), "too few to pre-train on"),
        (
            ("demo", "{tmp}/demo", "--masks", "{tmp}/empty"),
            "--masks, --subjects or --contrasts without scans",
        ),
        (("demo", "{tmp}/demo", "--source", "{tmp}/empty"), r"no scan to take there"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, cohort, store, model, arguments, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    good = cohort / "sub-A0001" / "anat" / "sub-A0001_T1w.nii.gz"
    (tmp_path / "bad" / "cut.nii.gz").write_bytes(good.read_bytes()[:2000])
    places = {"tmp": tmp_path, "store": store, "cohort": cohort, "model": model}
    status, output = run(capsys, *(str(argument).format(**places) for argument in arguments))
    assert status == 2 and "Traceback" not in output, output
    (line,) = [line for line in output.splitlines() if line.startswith("mdae: ")]
    assert re.search(said, line), line


WRITES_LAST = {"download", "prepare", "synth", "pretrain", "sweep", "demo", "fit", "reconstruct", "export"}
WRITES_OUT = {"embed", "predict", "probe", "evaluate", "leaderboard", "card"}
WRITES_NO_FILE_OF_ITS_OWN = {"check", "split", "objectives", "tasks", "encoders", "push"}


@pytest.mark.parametrize(("name", "config"), COMMANDS.items())
def test_outputs_go_by_one_rule(name, config):
    """What others take is the last word, and what takes any number of inputs or tells something has --out."""
    words = words_of(config)
    option = next((field for field in dataclasses.fields(config) if field.name == "out"), None)
    many = [field for field in words if str(get_type_hints(config)[field]).startswith("tuple")]
    if name in WRITES_LAST:
        assert list(words.items())[-1] in (("out", "OUT"), ("store", "STORE")) and not many
        assert (option is None) == ("out" not in words), "one output, and not two"
    elif name in WRITES_OUT:
        assert option is not None and "out" not in words
        assert option.default is not dataclasses.MISSING, "--out has a default"
    else:
        assert name in WRITES_NO_FILE_OF_ITS_OWN and option is None, f"say how {name} is told where to write"
    if name not in WRITES_LAST:
        assert "OUT" not in words.values(), "OUT is what is written"


def test_documents_keep_the_rule():
    root = Path(__file__).parents[1]
    pages = [root / "README.md", root / "Makefile", *(root / "docs").rglob("*.md")]
    given = [re.findall(r"mdae ([a-z]+)([^`\n#]*(?:\\\n[^`\n#]*)*)", page.read_text()) for page in pages]
    with_out = {name for found in given for name, rest in found if " --out" in rest}
    assert {"embed", "predict", "leaderboard"} <= with_out <= WRITES_OUT


def test_objectives_are_listed_with_paper_and_settings(capsys):
    status, said = run(capsys, "objectives")
    assert status == 0 and all(name in said for name in OBJECTIVES)
    for name, spec in OBJECTIVES.items():
        status, said = run(capsys, "objectives", name)
        assert status == 0 and spec.paper in said and spec.summary in said
        for path in flatten(spec.settings):
            assert f"{path}=" in said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("openmind-mae", ("nnssl:MIC-DKFZ", "CC BY 4.0")),
        ("brainmvp", ("not unseen: ucsf-pdgm", "paper:")),
        ("histogram", ("baseline",)),
        ("untrained", ("as pre-training begins with",)),
    ],
)
def test_encoders_are_listed_and_shown(capsys, name, words):
    status, said = run(capsys, "encoders")
    assert status == 0 and name in said
    status, said = run(capsys, "encoders", name)
    assert status == 0 and all(word in said for word in words)


def test_the_whole_way_from_raw_scans_to_a_probe(capsys, tmp_path, cohort):
    """Every command on one cohort, as the README tells it."""
    source = tmp_path / "scans"
    shutil.copytree(cohort, source)
    store, out = tmp_path / "store", tmp_path / "run"
    assert run(capsys, "prepare", source, store, "--spacing-mm", 8, 8, 8)[0] == 0
    status, said = run(
        capsys, "pretrain", store, out, "--steps", 4, "--batch", 2, "--patch", 16, 16, 16, "--val-every", 2,
        "--picture-every", 4, "--block", 4, 4, 4,
    )  # fmt: skip
    assert status == 0 and "model: " in said
    assert {path.name for path in out.iterdir()} >= {
        "train.csv",
        "val.csv",
        "model",
        "pictures",
        "tensorboard",
    }
    features = tmp_path / "features.parquet"
    assert run(capsys, "embed", out / "model", source, "--out", features)[0] == 0
    result = tmp_path / "result.json"
    status, said = run(
        capsys, "probe", features, source / "participants.tsv", "--label", "lesion", "--out", result,
        "--folds", 3, "--repeats", 1,
    )  # fmt: skip
    assert status == 0 and "AUROC" in said and result.exists()
    scan = source / "sub-A0001" / "anat" / "sub-A0001_T1w.nii.gz"
    assert run(capsys, "reconstruct", out / "model", scan, tmp_path / "restored")[0] == 0
    assert (tmp_path / "restored" / "picture.png").exists()


def test_a_dry_run_lists_and_writes_nothing(capsys, tmp_path, cohort):
    status, said = run(capsys, "prepare", cohort, tmp_path / "store", "--dry-run")
    assert (
        status == 0
        and "24 scans of 12 subjects would be prepared" in said
        and not Path(tmp_path / "store").exists()
    )
