"""nnU-Net's own trainer and preprocessing with our plan and weights, without training."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

pytest.importorskip("nnunetv2")

from mdae.errors import ModelError
from mdae.evaluation.nnunet.environment import nnunet_environment
from mdae.evaluation.nnunet.folds import Fold
from mdae.evaluation.nnunet.schedule import LearningRate
from mdae.evaluation.nnunet.start import open_start
from mdae.evaluation.nnunet.trainer import FoldRun, SegmentationTrainer, load_start
from mdae.evaluation.nnunet.training import Setting, new_trainer
from mdae.interop.nnunet import CONFIGURATION, adapt_plans
from mdae.seeding import numpy_generator
from tests.evaluation.nnunet import made
from tests.interop.test_nnunet import planned

DESCRIPTION = {
    "channel_names": {"0": "T1w", "1": "FLAIR"},
    "labels": {"background": 0, "outer": 1, "deep": 2},
    "file_ending": ".nii.gz",
}
ENCODER_PARTS = ("encoder.", "decoder.encoder.")


def plans_for(start, spacing_mm=(made.SPACING,) * 3):
    theirs = planned()
    theirs |= {"dataset_name": "Dataset001_Made", "label_manager": "LabelManager"}
    theirs["foreground_intensity_properties_per_channel"] = {"0": {}, "1": {}}
    theirs["configurations"][CONFIGURATION] |= {
        "preprocessor_name": "DefaultPreprocessor",
        "normalization_schemes": ["ZScoreNormalization"] * 2,
        "use_mask_for_norm": [True] * 2,
        **{f"resampling_fn_{what}": "resample_data_or_seg_to_shape" for what in ("data", "seg")},
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    }
    return adapt_plans(
        theirs,
        start.network.config,
        name="mdae-made",
        patch=made.PATCH,
        spacing_mm=spacing_mm,
        intensity=start.contract.intensity,
        batch=2,
    )


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return open_start(str(made.model(tmp_path_factory.mktemp("made") / "run" / "model")))


@pytest.fixture
def new(start, tmp_path):
    """Makes initialised trainers."""

    def make(**changes) -> SegmentationTrainer:
        options = {
            "train": ["a"],
            "val": ["b"],
            "weights": start.weights(2),
            "decoder": True,
            "rate": LearningRate("full", 4, 0.01, 0.25),
            "iterations": 4,
            "seed": 0,
        }
        plans = plans_for(start)
        setting = Setting(None, plans, DESCRIPTION, tmp_path, torch.device("cpu"))
        prepared = (
            tmp_path
            / "preprocessed"
            / "Dataset001_Made"
            / plans["configurations"][CONFIGURATION]["data_identifier"]
        )
        prepared.mkdir(parents=True, exist_ok=True)
        (prepared / "a.b2nd").touch()  # by which nnU-Net tells how cases are kept
        with nnunet_environment(tmp_path, 0):
            trainer = new_trainer(setting, Fold(0, ["a"], ["b"], []), FoldRun(**{**options, **changes}))
            trainer.initialize()
        return trainer

    return make


def test_nnu_net_trains_from_the_pretrained_weights(new, start):
    trainer = new()
    own, export = trainer.network.state_dict(), start.weights(2)
    heads = {name for name in own if ".seg_layers." in name}
    assert own.keys() == export.keys() | heads and own.keys() - heads
    assert all(torch.equal(own[name], export[name]) for name in export)
    assert own["encoder.stem.convs.0.conv.weight"].shape[1] == 2
    assert trainer.do_split() == (["a"], ["b"])
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (4, 4)


def test_a_random_decoder_leaves_the_encoder_pretrained(new, start):
    own, export = new(decoder=False).network.state_dict(), start.weights(2)
    encoders = {name for name in export if name.startswith(ENCODER_PARTS)}
    assert all(torch.equal(own[name], export[name]) for name in encoders)
    kernels = [name for name in export.keys() - encoders if export[name].dim() == 5]
    assert kernels and not any(torch.equal(own[name], export[name]) for name in kernels)


def test_an_untrained_start_leaves_all_to_nnu_net(new, start):
    first, again, other = (new(weights=None, seed=seed).network.state_dict() for seed in (0, 0, 1))
    name = "encoder.stem.convs.0.conv.weight"
    assert torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], start.weights(2)[name])


@pytest.mark.parametrize("schedule", ["full", "warmup", "frozen"])
def test_the_encoder_moves_when_the_schedule_says_so(new, schedule):
    trainer = new(rate=LearningRate(schedule, 4, 0.01, 0.25))
    for epoch, moves in enumerate({"full": [1, 1, 1], "warmup": [0, 1, 1], "frozen": [0, 0, 0]}[schedule]):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        assert trainer.optimizer.param_groups[0]["lr"] == trainer.run.rate.at(epoch)
        for name, parameter in trainer.network.named_parameters():
            assert parameter.requires_grad == (bool(moves) or not name.startswith("encoder.")), name


def test_checkpoints_go_by_nnu_nets_own_name(new, tmp_path):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    trainer = new()
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    saved = torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    assert saved["trainer_name"] == nnUNetTrainer.__name__ == "nnUNetTrainer"
    assert not list(tmp_path.glob(".*part*"))


def test_weights_of_another_network_are_refused_whole(new, start):
    network = new().network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = start.weights(2)
    missing = {name: value for name, value in weights.items() if "stages.2" not in name}
    for wrong in (missing, {**weights, "encoder.more": torch.zeros(1)}, start.weights(1)):
        with pytest.raises(ModelError, match="do not fit"):
            load_start(network, wrong, decoder=True)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR"])
def test_nnu_nets_volumes_are_ours_with_z_first(start, tmp_path, axes):
    """The export turns kernels to (z, y, x); the plan must bring scans in any orientation to (z, y, x) of RAS."""
    rng = numpy_generator(0, "scan")
    shape = (14, 19, 11)
    scan = np.where(np.indices(shape).min(axis=0) > 1, 100 + 10 * rng.standard_normal(shape), 0)
    affine = np.diag([made.SPACING] * 3 + [1.0])
    there = nib.orientations.axcodes2ornt(axes)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(scan, affine).as_reoriented(there), path)
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans_for(start))
    data, _, properties = DefaultPreprocessor(verbose=False).run_case(
        [str(path)] * 2, None, manager, manager.get_configuration(CONFIGURATION), DESCRIPTION
    )
    inside = scan != 0
    expected = np.where(inside, (scan - scan[inside].mean()) / scan[inside].std(), 0)
    kept = tuple(slice(low, high) for low, high in properties["bbox_used_for_cropping"])
    np.testing.assert_allclose(data[0], expected.transpose(2, 1, 0)[kept], atol=1e-3)
