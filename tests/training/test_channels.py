"""Several contrasts at once: from the store to the saved model, and on to what uses it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

import mdae
from mdae.cli import main
from mdae.data.prepare import PrepareConfig, prepare
from mdae.data.preprocess import Preprocessing
from mdae.data.sampling import CropDataset
from mdae.data.stack import read
from mdae.data.synth import SynthConfig, synthesise
from mdae.data.tables import read_table
from mdae.errors import ConfigError, DataError, ModelError
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.evaluate import evaluate
from mdae.evaluation.features.encoder import Encoder
from mdae.evaluation.finetuning.config import FinetuneOptions
from mdae.evaluation.nnunet.start import open_start
from mdae.evaluation.online.watching import labelled_scans
from mdae.interop.card import model_card
from mdae.networks import preset
from mdae.networks.saved import SavedModel, load_model, save_model
from mdae.objectives import build_objective
from mdae.options import AugmentOptions
from mdae.seeding import torch_generator
from mdae.training.config import PretrainConfig
from mdae.training.loop import pretrain
from mdae.training.run import open_run
from tests.conftest import COARSE, short_run

THREE = ("T1w", "T2w", "FLAIR")
TASK = """
name: own-lesion
title: Lesions
layout: table
contrasts: [t1, t2, t2f, t1ce]
label: {column: lesion, positive: ["1"]}
"""


@pytest.fixture(scope="module")
def sessions(tmp_path_factory) -> Path:
    """Six subjects of three contrasts, of whom the third lacks FLAIR, with labels."""
    out = tmp_path_factory.mktemp("sessions") / "bids"
    synthesise(SynthConfig(out=out, subjects=6, spacing_mm=8.0, workers=1))
    (out / "sub-0003" / "anat" / "sub-0003_FLAIR.nii.gz").unlink()
    return out


@pytest.fixture(scope="module")
def together(sessions, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("together") / "store"
    prepare(PrepareConfig(source=sessions, store=path, preprocessing=COARSE, workers=1, together=True))
    return path


@pytest.fixture(scope="module")
def model_of_three(together, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    options = ("drop_channel=0.3", "block=8,8,8")
    return pretrain(short_run(together, out, channels=THREE, steps=4, settings=options))


# -- training -----------------------------------------------------------------------------------------------------


def test_one_channel_is_the_one_contrast_path_bit_for_bit(store, tmp_path):
    one = pretrain(short_run(store, tmp_path / "one", contrasts=("T1w",), steps=4))
    other = pretrain(short_run(store, tmp_path / "other", channels=("T1w",), steps=4))
    weights, same = (load_model(folder).network.state_dict() for folder in (one, other))
    assert all(torch.equal(value, same[name]) for name, value in weights.items())
    for log in ("train.csv", "val.csv"):
        assert (one.parent / log).read_text() == (other.parent / log).read_text()
    assert load_model(one).channels == () and load_model(other).channels == ("T1w",)


def test_the_order_of_channels_permutes_the_crops(together, tmp_path):
    runs = [open_run(short_run(together, tmp_path / "run", channels=order)) for order in (THREE, THREE[::-1])]
    first, second = (CropDataset(run.store, run.train) for run in runs)
    for sample in range(4):
        assert np.array_equal(first[sample][0], second[sample][0][::-1], equal_nan=True)


@torch.no_grad()
def test_a_permutation_of_channels_permutes_the_result():
    """With stem and head permuted alike, restored volumes are, and the loss stays."""
    network = preset("tiny").new(torch_generator(0, "weights"), in_channels=3)
    for index, parameter in enumerate(network.parameters()):
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch_generator(0, "jitter", index)))
    other, order = preset("tiny").new(in_channels=3), [2, 0, 1]
    other.load_state_dict(network.state_dict())
    stem = other.encoder.get_submodule(other.encoder.first_conv)
    stem.weight.copy_(stem.weight[:, order])
    other.head.weight.copy_(other.head.weight[order])
    other.head.bias.copy_(other.head.bias[order])
    x, t = torch.randn(2, 3, 16, 16, 16, generator=torch_generator(0, "x")), torch.tensor([0.1, 0.7])
    torch.testing.assert_close(other(x[:, order], t), network(x, t)[:, order], rtol=1e-4, atol=1e-4)
    settings = {"schedule.kind": "none", "block": "8,8,8"}
    losses = [
        build_objective("mdae", own, changes=settings)(
            volumes, [torch_generator(0, "draw", index) for index in range(2)]
        ).loss
        for own, volumes in ((network, x), (other, x[:, order]))
    ]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["mdae", "models-genesis", "simmim", "spark", "volume-fusion", "simclr", "voco"]
)
def test_a_contrast_that_is_lacking_teaches_nothing(name):
    """Whatever stands in it changes neither loss nor gradient, and a sample with all others is learned from."""
    clean = torch.randn(2, 3, 32, 32, 32, generator=torch_generator(0, "x"))
    known = torch.ones_like(clean, dtype=torch.bool)
    known[0, 1] = False
    found = []
    for fill in (0.0, 9.0):
        network = preset("tiny").new(torch_generator(0, "weights"), in_channels=3)
        objective = build_objective(name, network, generator=torch_generator(0, "heads"))
        output = objective(
            torch.where(known, clean, fill), [torch_generator(0, "draw", i) for i in range(2)], known
        )
        output.loss.backward()
        gradients = [p.grad.clone() for p in objective.parameters() if p.grad is not None]
        found.append((output.loss.detach(), gradients))
    (one, first), (other, second) = found
    assert torch.equal(one, other) and one.isfinite() and one > 0
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_sessions_that_lack_a_channel_are_hidden_or_left_out(together, tmp_path):
    hidden = open_run(short_run(together, tmp_path / "run", channels=THREE))
    assert len(hidden.scans) == 6 and hidden.partly_unknown and hidden.objective.network.in_channels == 3
    whole = open_run(short_run(together, tmp_path / "run", channels=THREE, lacking="leave_out"))
    assert sorted(own.subject for own in whole.scans) == ["0001", "0002", "0004", "0005", "0006"]
    assert not whole.partly_unknown
    with pytest.raises(DataError, match="no scan of contrast T1c"):
        open_run(short_run(together, tmp_path / "run", channels=("T1w", "T1c")))
    for wrong in ({"channels": ("T1w", "T1w")}, {"channels": ("T1w",), "contrasts": ("T1w",)}):
        with pytest.raises(ConfigError, match=r"--channels|once"):
            PretrainConfig(store=together, out=tmp_path, **wrong)


# -- the rest of the road -----------------------------------------------------------------------------------------


def test_the_contract_names_the_channels(model_of_three):
    saved = load_model(model_of_three)
    assert saved.channels == THREE and saved.network.in_channels == 3
    assert saved.objective["corruption"]["drop_channel"] == 0.3
    config = json.loads((model_of_three / "config.json").read_text())
    assert config["channels"] == list(THREE)
    assert len(config["provenance"]["scans"]["hashes"]) == config["provenance"]["num_scans"] == 17
    assert '"FLAIR"' in model_card(model_of_three, name="me/three")


def test_sessions_are_embedded_raw_as_from_the_store(model_of_three, sessions, together, tmp_path):
    for name, source in (("raw", sessions), ("store", together)):
        main(["embed", str(model_of_three), str(source), "--out", str(tmp_path / f"{name}.csv")])
    raw, stored = (
        pd.read_csv(tmp_path / f"{name}.csv", dtype={"subject": str}).sort_values(
            "subject", ignore_index=True
        )
        for name in ("raw", "store")
    )
    assert list(raw["subject"]) == [f"000{number}" for number in range(1, 7)]
    assert list(raw["scan"]) == list(stored["scan"]) and raw["scan"][0] == "sub-0001_T1w"
    assert set(raw["contrast"]) == {"T1w+T2w+FLAIR"} and raw["warnings"].iloc[2].endswith("lacks FLAIR")
    features = [name for name in raw if name[1:].isdigit()]
    np.testing.assert_allclose(raw[features], stored[features], atol=0.02)  # stores are in float16
    assert raw[features].std().mean() > 0


def test_one_session_in_python_in_any_order_and_what_is_refused(model_of_three, sessions):
    encoder = mdae.load(model_of_three)
    files = {name: sessions / "sub-0001" / "anat" / f"sub-0001_{name}.nii.gz" for name in THREE}
    one = encoder.embed(files)
    assert np.array_equal(one, encoder.embed(dict(reversed(files.items())))) and one.shape == (120,)
    assert not np.array_equal(one, encoder.embed({"T1w": files["T1w"]}))
    with pytest.raises(ConfigError, match=r"3 channels .* takes no single scans"):
        encoder.embed(files["T1w"])
    with pytest.raises(ConfigError, match="scans of PD for a model of T1w, T2w, FLAIR"):
        encoder.embed({"PD": files["T1w"]})


def test_a_hidden_contrast_is_restored_from_the_others(model_of_three, sessions, tmp_path, capsys):
    anat = sessions / "sub-0001" / "anat"
    scan, also = str(anat / "sub-0001_T1w.nii.gz"), str(anat / "sub-0001_T2w.nii.gz")
    flair = str(anat / "sub-0001_FLAIR.nii.gz")
    options = ["--mask-ratio", "0", "--t", "0", "--hide", "FLAIR"]
    for name, own in (("hidden", ["T2w", also, "FLAIR", flair]), ("lacking", ["T2w", also])):
        main(["reconstruct", str(model_of_three), scan, str(tmp_path / name), "--also", *own, *options])
    prepared = tmp_path / "prepared"
    own = ["T2w", also, "FLAIR", flair, "--space", "prepared"]
    main(["reconstruct", str(model_of_three), scan, str(prepared), "--also", *own, *options])
    command = ["reconstruct", str(model_of_three), scan, str(tmp_path / "scores"), "--space", "prepared"]
    main([*command, "--also", "T2w", also, *options])
    about = json.loads((tmp_path / "hidden" / "reconstruction.json").read_text())
    assert about["hidden"] == ["FLAIR"] and about["channels"]["FLAIR"]["mse_masked"] > 0
    assert about["channels"]["T1w"]["mse_masked"] is None and about["masked_share"] == pytest.approx(1 / 3)
    lacking = json.loads((tmp_path / "lacking" / "reconstruction.json").read_text())
    assert lacking["channels"]["FLAIR"]["mse_masked"] is None
    source, restored = nib.load(flair), nib.load(tmp_path / "hidden" / "restored_FLAIR.nii.gz")
    assert restored.shape == source.shape and np.allclose(restored.affine, source.affine, atol=1e-4)
    assert nib.load(tmp_path / "lacking" / "restored_FLAIR.nii.gz").shape == source.shape
    hidden, unseen = (
        nib.load(folder / "restored_FLAIR.nii.gz").get_fdata() for folder in (prepared, tmp_path / "scores")
    )
    np.testing.assert_allclose(hidden, unseen, atol=1e-5)  # what is hidden tells nothing of itself
    assert "FLAIR: " in capsys.readouterr().out


def test_labels_are_told_of_sessions_while_it_trains(together, sessions, tmp_path):
    run = open_run(short_run(together, tmp_path / "run", channels=THREE))
    labelled = labelled_scans(run, read_table(sessions / "participants.tsv"), "lesion", sessions)
    assert sorted(own.subject for own in labelled.scans) == [f"000{number}" for number in range(1, 7)]
    model = SavedModel(run.objective.network, run.store.contract, run.patch, channels=THREE)
    own = labelled.scans[0]
    assert np.isfinite(Encoder(model).embed_volume(read(run.store, own), own.background)).all()


def test_a_task_of_several_contrasts_is_told_from_one_pass(model_of_three, sessions, tmp_path):
    rows = ["path,subject,contrast,lesion"]
    for number in (1, 2, 4, 5, 6):  # 3 has no FLAIR
        anat, name = sessions / f"sub-000{number}" / "anat", f"sub-000{number}"
        for contrast, file in (("t1", "T1w"), ("t2", "T2w"), ("t2f", "FLAIR"), ("t1ce", "T1w")):
            rows.append(f"{anat / f'{name}_{file}.nii.gz'},{name},{contrast},{number % 2}")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "task.yaml").write_text(TASK)
    config = EvaluateConfig(
        encoder=str(model_of_three),
        task=(str(tmp_path / "task.yaml"),),
        data=tmp_path / "table.csv",
        out=tmp_path / "results",
        cache=tmp_path / "cache",
    )
    (found,) = evaluate(config)
    assert [result.contrast for result in found.results] == ["all"] and found.seen_in_pretraining == 5 * 3
    kept = [np.load(path) for path in (tmp_path / "cache").rglob("*.npy")]
    assert len(kept) == 5 and all(features.shape == (120,) for features in kept)
    options = FinetuneOptions(epochs=1, augment=AugmentOptions())
    (tuned,) = evaluate(replace(config, protocol="finetune", folds=2, repeats=1, finetune=options))
    assert [result.contrast for result in tuned.results] == ["all"] and tuned.seen_in_pretraining == 5 * 3
    shapes = {np.load(path).shape for path in (tmp_path / "cache").rglob("*.npy")}
    assert shapes == {(120,), (3, 16, 16, 16)}  # features and inputs of the three at once


def test_nnu_net_is_given_the_channels_in_their_order(model_of_three, caplog):
    start = open_start(str(model_of_three))
    assert start.in_order(("flair", "t1ce", "t1", "t2")) == ("t1", "t2", "flair")
    assert "no channel for t1ce" in caplog.text
    assert start.weights(3)["encoder.stem.convs.0.conv.weight"].shape[1] == 3
    with pytest.raises(ConfigError, match="no FLAIR among T1, T2"):
        start.in_order(("T1", "T2"))


@torch.no_grad()
def test_a_model_of_one_contrast_begins_one_of_several(model, together, tmp_path):
    """The same volume as every contrast gives what it gave alone: its features, and itself in every channel."""
    run = open_run(short_run(together, tmp_path / "run", channels=THREE, init=str(model)))
    network, source = run.objective.network.eval(), load_model(model).network
    x, t = torch.randn(1, 1, 16, 16, 16, generator=torch_generator(0, "x")), torch.tensor([0.4])
    again, before = network(x.repeat(1, 3, 1, 1, 1), t), source(x, t)
    torch.testing.assert_close(again, before.repeat(1, 3, 1, 1, 1), rtol=1e-4, atol=1e-4)
    wide, one = (own.encoder.get_submodule(own.encoder.first_conv).weight for own in (network, source))
    torch.testing.assert_close(wide.sum(1), one[:, 0])  # which a normalisation right behind would hide
    said = "\n".join(run.begun.lines())
    assert "repeated for 3 channels" in said and "predicts other channels" not in said


@torch.no_grad()
def test_channels_of_another_order_are_brought_to_this_one(model_of_three, together, tmp_path):
    order = [2, 0, 1]
    run = open_run(
        short_run(together, tmp_path / "run", channels=[THREE[i] for i in order], init=str(model_of_three))
    )
    network, source = run.objective.network.eval(), load_model(model_of_three).network
    x, t = torch.randn(1, 3, 16, 16, 16, generator=torch_generator(0, "x")), torch.tensor([0.4])
    torch.testing.assert_close(network(x[:, order], t), source(x, t)[:, order], rtol=1e-4, atol=1e-4)
    assert "brought from T1w T2w FLAIR to FLAIR T1w T2w" in "\n".join(run.begun.lines())


def test_single_scans_are_refused_where_channels_are_wanted(
    model_of_three, model, sessions, tmp_path, capsys
):
    scan = str(sessions / "sub-0001" / "anat" / "sub-0001_T1w.nii.gz")
    for command, said in (
        (["reconstruct", str(model), scan, str(tmp_path / "o"), "--hide", "T1w"], "model of single scans"),
        (["reconstruct", str(model_of_three), scan, str(tmp_path / "o"), "--hide", "PD"], "no channel PD"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(command)
        assert caught.value.code == 2 and said in capsys.readouterr().err
    names = tmp_path / "names"
    names.mkdir()
    shutil.copy(scan, names / "visit_one.nii.gz")
    with pytest.raises(SystemExit):
        main(["embed", str(model_of_three), str(names), "--out", str(tmp_path / "f.csv")])
    assert "no scan of T1w, T2w, FLAIR there" in capsys.readouterr().err


def test_a_saved_model_whose_channels_do_not_fit_its_network_is_refused(tmp_path):
    network = preset("tiny").new(in_channels=2)
    save_model(tmp_path, SavedModel(network, Preprocessing(), (16, 16, 16), channels=("T1w", "FLAIR")))
    config = json.loads((tmp_path / "config.json").read_text())
    config["channels"] = ["T1w"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="1 channels for a network of 2"):
        load_model(tmp_path)


@pytest.mark.slow
def test_real_scans_of_four_contrasts(real_scans, tmp_path):
    """Skull-stripped MNI scans of 1 mm: one grid, a few steps, features of raw sessions."""
    names = ("T1w", "T2w", "FLAIR")
    coarse = Preprocessing(spacing_mm=(4.0, 4.0, 4.0))
    prepare(
        PrepareConfig(
            source=real_scans / "ms-cross", store=tmp_path / "store", preprocessing=coarse, together=True,
            contrasts=names, workers=1,
        )
    )  # fmt: skip
    out = pretrain(short_run(tmp_path / "store", tmp_path / "run", channels=names, steps=2, val_fraction=0.5))
    main(["embed", str(out), str(real_scans / "ms-cross"), "--out", str(tmp_path / "f.csv")])
    table = pd.read_csv(tmp_path / "f.csv")
    assert len(table) == 2 and table.filter(regex=r"^f\d").notna().all(axis=None)
