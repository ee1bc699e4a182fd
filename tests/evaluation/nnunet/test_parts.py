"""The pieces around nnU-Net: labels, raw data sets, folds, learning rates, and its surroundings."""

from __future__ import annotations

import ast
import json
import os
import random
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mdae.errors import ConfigError, DataError, TrainingError
from mdae.evaluation.cohort import find_cohort
from mdae.evaluation.configs import EvaluateConfig
from mdae.evaluation.nnunet import environment, run
from mdae.evaluation.nnunet.config import SegmentOptions
from mdae.evaluation.nnunet.dataset import dataset_key, raw_dataset
from mdae.evaluation.nnunet.environment import augmenting_processes, nnunet_environment
from mdae.evaluation.nnunet.folds import cross_validation, given_split
from mdae.evaluation.nnunet.labels import BY_LAYOUT, described_labels, found_labels, remapped
from mdae.evaluation.nnunet.run import evaluate_segmentation
from mdae.evaluation.nnunet.schedule import LearningRate
from mdae.evaluation.nnunet.start import open_start
from mdae.seeding import numpy_generator
from mdae.tasks.catalogue import find_task
from mdae.tasks.record import Task
from tests.evaluation.nnunet import made

SEGMENTATION = Path(run.__file__).parent
IDS = [f"case_{number:02d}" for number in range(13)]


# -- labels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "enhancing"), [("brats18", 4), ("ucsf-pdgm", 4), ("brats23", 3)])
def test_brats_labels_are_the_organisers_regions(layout, enhancing):
    scheme = BY_LAYOUT[layout]
    mask = np.array([[[0, 1, 2, enhancing]]])  # nothing, necrotic core, oedema, enhancing tumour
    new = remapped(mask, scheme)
    regions = {name: np.isin(new, values).ravel().tolist() for name, values in scheme.classes.items()}
    assert regions == {
        "whole_tumour": [False, True, True, True],
        "tumour_core": [False, True, False, True],
        "enhancing_tumour": [False, False, False, True],
    }
    assert np.isin(new, scheme.parts["oedema"]).ravel().tolist() == [False, False, True, False]
    assert np.isin(new, scheme.parts["necrotic_core"]).ravel().tolist() == [False, True, False, False]
    assert set(new.ravel().tolist()) == {0, 1, 2, 3}
    with pytest.raises(DataError, match=r"seg\.nii: a mask has the value 7"):
        remapped(mask + 6 * (mask == 1), scheme, where=Path("seg.nii"))


def test_nnu_net_reads_the_regions_as_they_are_meant():
    handling = pytest.importorskip("nnunetv2.utilities.label_handling.label_handling")
    scheme = BY_LAYOUT["brats18"]
    about = scheme.to_dict()
    manager = handling.LabelManager(about["labels"], about["regions_class_order"])
    assert manager.foreground_regions == list(scheme.classes.values())
    heads = np.zeros((3, 1, 1, 4), dtype=np.float32)
    heads[0, 0, 0, 1:], heads[1, 0, 0, 2:], heads[2, 0, 0, 3:] = 1, 1, 1
    labels = manager.convert_probabilities_to_segmentation(heads)
    assert labels.ravel().tolist() == [0, 1, 2, 3]  # nothing, oedema, necrotic core, enhancing tumour


def test_described_and_found_labels():
    about = {
        "labels": {"background": 0, "big one": [1, 2], "core": 2, "ignore": 3},
        "regions_class_order": [1, 2],
    }
    scheme = described_labels(about)
    assert scheme.classes == {"big_one": (1, 2), "core": (2,)} and scheme.ignore == 3
    assert sorted(scheme.values) == [0, 1, 2, 3] and scheme.to_dict() == about
    gaps = described_labels(
        {
            "labels": {"background": 0, "whole": [2, 4, 7], "oedema": 2, "enhancing": 4, "ignore": 255},
            "regions_class_order": [7, 2, 4],
        }
    )
    assert gaps.values == {0: 0, 2: 1, 4: 2, 7: 3, 255: 4} and gaps.ignore == 4
    assert gaps.classes == {"whole": (1, 2, 3), "oedema": (1,), "enhancing": (2,)}
    labels = {"background": 0, "whole": [1, 2, 3], "oedema": 1, "enhancing": 2, "ignore": 4}
    assert gaps.to_dict() == {"labels": labels, "regions_class_order": [3, 1, 2]}
    found = found_labels({0, 3, 40})
    assert found.values == {0: 0, 3: 1, 40: 2} and found.classes == {"label_3": (1,), "label_40": (2,)}
    with pytest.raises(DataError, match="not 0"):
        found_labels({0})


# -- raw data sets ------------------------------------------------------------------------------------------------


def brats_tree(root: Path, subjects: int = 6) -> Path:
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    for number in range(subjects):
        rng = numpy_generator(number, "brats tree")
        name = f"Brats18_TCIA_{number}_1"
        folder = root / "HGG" / name
        folder.mkdir(parents=True)
        for contrast in ("t1", "t1ce", "t2", "flair"):
            nib.save(
                nib.Nifti1Image(rng.normal(100, 9, (12, 14, 10)), affine),
                folder / f"{name}_{contrast}.nii.gz",
            )
        mask = rng.choice([0, 1, 2, 4], (12, 14, 10)).astype(np.int16)
        nib.save(nib.Nifti1Image(mask, affine), folder / f"{name}_seg.nii.gz")
    (root / "LGG").mkdir()
    return root


def written(root: Path, out: Path, contrasts: tuple[str, ...] = ("t1", "flair")):
    task = find_task("brats18-seg")
    cohort = find_cohort(task, root, contrasts)
    return raw_dataset(task, root, cohort, contrasts, out, workers=2), cohort


def test_scans_stay_where_they_lie_and_masks_are_relabelled(tmp_path):
    root = brats_tree(tmp_path / "brats")
    dataset, _ = written(root, tmp_path / "raw")
    assert len(dataset.cases) == 6 and dataset.excluded == {}
    about = dataset.description
    assert about["channel_names"] == {"0": "t1", "1": "flair"} and about["numTraining"] == 6
    case = dataset.cases["TCIA_0"]
    folder = root / "HGG" / "Brats18_TCIA_0_1"
    assert case.images == [folder / "Brats18_TCIA_0_1_t1.nii.gz", folder / "Brats18_TCIA_0_1_flair.nii.gz"]
    before, after = (nib.load(path) for path in (folder / "Brats18_TCIA_0_1_seg.nii.gz", case.label))
    assert np.array_equal(before.affine, after.affine)
    theirs, ours = np.asarray(before.dataobj), np.asarray(after.dataobj)
    assert np.array_equal(ours == 3, theirs == 4) and np.array_equal(ours == 2, theirs == 1)
    stamp = case.label.stat().st_mtime_ns
    again, _ = written(root, tmp_path / "raw")
    assert again == dataset and case.label.stat().st_mtime_ns == stamp, "the same is not written twice"


def test_described_labels_with_gaps_are_numbered_anew_in_masks_and_description(tmp_path):
    data = made.with_gaps(made.dataset(tmp_path, 2), tmp_path / "gaps")
    task = find_task(str(data))
    raw = raw_dataset(
        task, data, find_cohort(task, data, ("FLAIR",)), ("FLAIR",), tmp_path / "raw", workers=2
    )
    assert raw.description["labels"] == {"background": 0, "outer": 1, "deep": 2}
    for name, case in raw.cases.items():
        theirs, ours = (
            np.asarray(nib.load(path).dataobj) for path in (data / "labelsTr" / f"{name}.nii.gz", case.label)
        )
        assert set(np.unique(ours)) == {0, 1, 2} and np.array_equal(2 * ours.astype(int), theirs)


def test_nnu_net_finds_the_cases(tmp_path):
    utils = pytest.importorskip("nnunetv2.utilities.utils")
    dataset, _ = written(brats_tree(tmp_path / "brats"), tmp_path / "raw")
    found = utils.get_filenames_of_train_images_and_targets(str(dataset.folder))
    assert {case_id: files["images"] for case_id, files in found.items()} == {
        case_id: [str(path) for path in case.images] for case_id, case in dataset.cases.items()
    }


def test_who_cannot_be_used_is_left_out_with_the_reason(tmp_path):
    root = brats_tree(tmp_path / "brats")

    def path(number: int, what: str) -> Path:
        return root / "HGG" / f"Brats18_TCIA_{number}_1" / f"Brats18_TCIA_{number}_1_{what}.nii.gz"

    affine, mask = nib.load(path(0, "seg")).affine, nib.load(path(0, "seg")).get_fdata()
    nib.save(nib.Nifti1Image(mask[1:], affine), path(0, "seg"))
    nib.save(nib.Nifti1Image(mask + 0.5, affine), path(1, "seg"))
    path(2, "flair").write_bytes(path(2, "flair").read_bytes()[:200])
    path(4, "t1").write_bytes(path(3, "t1").read_bytes())
    dataset, _ = written(root, tmp_path / "raw")
    assert list(dataset.cases) == ["TCIA_3", "TCIA_5"]
    reasons = " / ".join(dataset.excluded)
    for words in ("another grid", "whole numbers", "truncated", "another subject's"):
        assert words in reasons, words
    assert sum(dataset.excluded.values()) == 4


def test_other_files_have_another_key(tmp_path):
    root = brats_tree(tmp_path / "brats")
    _, cohort = written(root, tmp_path / "raw")
    key = dataset_key(cohort, ("t1", "flair"))
    assert key == dataset_key(cohort, ("t1", "flair")) != dataset_key(cohort, ("flair", "t1"))
    os.utime(root / "HGG" / "Brats18_TCIA_0_1" / "Brats18_TCIA_0_1_seg.nii.gz", ns=(1, 1))
    assert key != dataset_key(cohort, ("t1", "flair"))


# -- folds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [3, 5, 13])
def test_everybody_is_tested_once_and_is_in_one_part_of_each_fold(number):
    folds = cross_validation(IDS, number, seed=3)
    assert sorted(name for fold in folds for name in fold.test) == IDS
    for fold in folds:
        assert sorted(fold.train + fold.val + fold.test) == IDS
        assert fold.train and fold.val and fold.test
    assert folds == cross_validation(IDS, number, seed=3) != cross_validation(IDS, number, seed=4)
    with pytest.raises(ConfigError, match="3 --folds"):
        cross_validation(IDS, 2, seed=0)


def test_a_given_split_is_kept_and_a_fifth_of_train_validates_where_nobody_does():
    parts = ["train"] * 5 + ["val"] * 2 + ["test"] * 5 + [""]
    fold = given_split(IDS, parts, seed=0)
    assert (fold.train, fold.val, fold.test) == (IDS[:5], IDS[5:7], IDS[7:12])
    fold = given_split(IDS, ["train"] * 10 + ["test"] * 3, seed=0)
    assert len(fold.val) == 2 and sorted(fold.train + fold.val) == IDS[:10] and fold.test == IDS[10:]
    with pytest.raises(ConfigError, match="nobody to train"):
        given_split(IDS, ["train"] + ["test"] * 12, seed=0)
    with pytest.raises(ConfigError, match="nobody is left of the split's test subjects"):
        given_split(IDS, ["train"] * 12 + [""], seed=0)


# -- learning rate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["full", "frozen"])
def test_without_a_warm_up_the_learning_rate_is_nnu_nets(schedule):
    polylr = pytest.importorskip("nnunetv2.training.lr_scheduler.polylr")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.01)
    theirs, ours = polylr.PolyLRScheduler(optimizer, 0.01, 50), LearningRate(schedule, 50, 0.01, 0.1)
    for epoch in range(50):
        theirs.step(epoch)
        assert ours.at(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        assert ours.encoder_trains(epoch) == (schedule == "full")


def test_a_warm_up_trains_the_decoder_first_and_rises_twice():
    rate = LearningRate("warmup", 20, 0.1, 0.2)
    assert [rate.encoder_trains(epoch) for epoch in range(6)] == [False] * 4 + [True] * 2
    assert [rate.at(epoch) for epoch in range(9)] == pytest.approx([0.025, 0.05, 0.075, 0.1] * 2 + [0.1])
    assert all(rate.at(epoch) > rate.at(epoch + 1) > 0 for epoch in range(8, 19))


@pytest.mark.parametrize("epochs", [3, 4, 5, 10])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.49])
def test_short_warm_ups_leave_epochs_for_the_rest(epochs, share):
    rate = LearningRate("warmup", epochs, 0.1, share)
    assert rate.rise >= 1 and 2 * rate.rise < epochs
    assert all(0 < rate.at(epoch) <= 0.1 for epoch in range(epochs))


def test_options_that_make_no_sense_are_refused():
    for wrong in ({"epochs": 0}, {"lr": 0.0}, {"warmup": 0.5}, {"schedule": "warmup", "epochs": 2}):
        with pytest.raises(ConfigError):
            SegmentOptions(**wrong)


# -- surroundings -------------------------------------------------------------------------------------------------


def test_nnu_nets_variables_output_and_random_numbers_stay_in_its_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", "/the/users")
    monkeypatch.delenv("nnUNet_results", raising=False)
    before = dict(os.environ)
    with pytest.raises(KeyboardInterrupt), nnunet_environment(tmp_path, processes=3):
        within = dict(os.environ)
        print("chatter")
        raise KeyboardInterrupt
    assert dict(os.environ) == before
    assert within["nnUNet_raw"] == str(tmp_path / "raw")
    assert within["nnUNet_n_proc_DA"] == "3" and within["nnUNet_wandb_enabled"] == "0"
    assert capsys.readouterr().out == "" and "chatter" in (tmp_path / "nnunet.log").read_text()
    states = []
    for draws in (0, 5):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
        with nnunet_environment(tmp_path, processes=0):
            for _ in range(draws):
                random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        states.append((random.random(), np.random.rand(), torch.rand(1).item()))  # noqa: NPY002
    assert states[0] == states[1]


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (torch.OutOfMemoryError("CUDA"), TrainingError, "--segment.batch"),
        (RuntimeError("a worker is gone"), DataError, "nnunet.log: nnU-Net gave up .*a worker is gone"),
    ],
)
def test_what_stops_nnu_net_is_one_line(tmp_path, error, kind, words):
    with pytest.raises(kind, match=words), nnunet_environment(tmp_path, processes=0):
        raise error


def test_no_process_augments_where_there_is_no_room_for_it(monkeypatch):
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    monkeypatch.setattr(environment, "num_cores", lambda: 16)
    cuda = torch.device("cuda")
    assert augmenting_processes(torch.device("cpu"), 1) == 0
    assert augmenting_processes(cuda, 1) == 12
    assert augmenting_processes(cuda, 10**15) == 0
    monkeypatch.setattr(environment, "SHARED_MEMORY", Path("/no/such/folder"))
    assert augmenting_processes(cuda, 1) == 0
    monkeypatch.setenv("nnUNet_n_proc_DA", "5")
    assert augmenting_processes(cuda, 1) == 5, "the user knows"


def test_without_nnu_net_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nnunetv2", None)
    root = brats_tree(tmp_path / "brats")
    config = EvaluateConfig(encoder="untrained:tiny", task=("brats18-seg",), data=root, out=tmp_path / "out")
    with pytest.raises(ConfigError, match=r"nnunetv2 is not installed.*mdae\[nnunet\]"):
        evaluate_segmentation(find_task("brats18-seg"), config, SegmentOptions())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", sorted(SEGMENTATION.glob("*.py")), ids=lambda path: path.name)
def test_only_what_trains_imports_nnu_net_at_once(path):
    def at_once(text: str) -> set[str]:
        nodes = ast.parse(text).body
        return {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}

    needs = {"mdae.evaluation.nnunet.trainer", "mdae.evaluation.nnunet.training"}
    found = {name for name in at_once(path.read_text()) if name.startswith("nnunetv2") or name in needs}
    assert not found or path.stem in ("trainer", "training")


def test_starts_that_are_no_networks_of_ours_are_refused():
    for spec in ("histogram", "nnssl:somewhere"):
        with pytest.raises(ConfigError, match="cannot start"):
            open_start(spec)
    untrained = open_start("untrained:tiny")
    assert untrained.weights(4) is None and not untrained.trained


def test_an_untrained_start_of_a_models_make_prepares_scans_as_that_does(tmp_path):
    model = str(made.model(tmp_path / "run" / "model"))
    trained, untrained = open_start(model), open_start(f"untrained:{model}")
    assert (untrained.contract, untrained.patch) == (trained.contract, trained.patch)
    assert untrained.network.config == trained.network.config
    assert untrained.weights(2) is None and trained.weights(2) is not None
    assert untrained.name == "untrained-run" and untrained.fingerprint != trained.fingerprint


# -- raw data sets of nnU-Net as tasks ----------------------------------------------------------------------------


def test_a_raw_data_set_is_a_task_by_its_folder(tmp_path):
    dataset, _ = written(brats_tree(tmp_path / "brats"), tmp_path / "raw")
    task = find_task(str(dataset.folder))
    assert (task.kind, task.contrasts, task.name) == (
        "segmentation",
        ("t1", "flair"),
        "Dataset001_brats18-seg",
    )
    cohort = find_cohort(task, dataset.folder, task.contrasts)
    assert [case.subject for case in cohort.cases] == sorted(dataset.cases)
    again = raw_dataset(task, dataset.folder, cohort, task.contrasts, tmp_path / "again", workers=1)
    assert again.scheme.classes == dataset.scheme.classes
    assert {name: case.images for name, case in again.cases.items()} == {
        name: case.images for name, case in dataset.cases.items()
    }


def test_the_usual_layout_and_descriptions_that_are_none(tmp_path):
    root = tmp_path / "Dataset003_Usual"
    for name in ("a", "b"):
        for number in (0, 1) if name == "a" else (0,):
            path = root / "imagesTr" / f"{name}_{number:04d}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (root / "labelsTr").mkdir()
    for name in ("a", "b"):
        (root / "labelsTr" / f"{name}.nii.gz").touch()
    about = {
        "modality": {"0": "MR", "1": "MR"},
        "labels": {"background": 0, "x": 1},
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(about))
    task = find_task(str(root))
    assert task.contrasts == ("MR_0000", "MR_0001")
    cohort = find_cohort(task, root, task.contrasts)
    assert [case.subject for case in cohort.cases] == ["a"] and cohort.excluded == {"no MR_0001": 1}
    (root / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match=r"dataset_format\.md"):
        find_task(str(root))


def test_a_table_of_ones_own_with_a_column_of_masks(tmp_path):
    root = brats_tree(tmp_path / "brats", subjects=2)
    rows = ["path,subject,contrast,mask"]
    for number in range(2):
        name = f"brats/HGG/Brats18_TCIA_{number}_1/Brats18_TCIA_{number}_1"
        rows += [f"{name}_t1.nii.gz,s{number},T1,{name}_seg.nii.gz", f"{name}_t2.nii.gz,s{number},T2,"]
    (tmp_path / "scans.csv").write_text("\n".join(rows) + "\n")
    task = Task(name="mine", title="mine", layout="table", kind="segmentation", contrasts=("T1", "T2"))
    cohort = find_cohort(task, tmp_path / "scans.csv", task.contrasts)
    dataset = raw_dataset(task, tmp_path / "scans.csv", cohort, task.contrasts, tmp_path / "raw", workers=1)
    assert list(dataset.cases) == ["s0", "s1"] and root.is_dir()
    assert dataset.scheme.classes == {"label_1": (1,), "label_2": (2,), "label_4": (3,)}


def test_cases_of_one_person_are_in_one_part():
    people = [f"A{number // 2:04d}" for number in range(len(IDS))]
    whose = dict(zip(IDS, people, strict=True))
    for fold in [
        *cross_validation(IDS, 3, 0, people),
        given_split(IDS, ["train"] * (len(IDS) - 1) + ["test"], 0, people),
    ]:
        sides = [{whose[name] for name in part} for part in (fold.train, fold.val, fold.test)]
        assert sum(map(len, sides)) == len(set().union(*sides)) == len(set(people))
    with pytest.raises(ConfigError, match="3 folds of 2 subjects"):
        cross_validation(IDS[:4], 3, 0, people[:4])
