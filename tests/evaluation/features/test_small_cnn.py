"""The CNN from scratch: it tells volumes apart, learns from labels, and keeps what was set of its options."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdae.errors import ModelError
from mdae.evaluation.features.extractors import fingerprint_of, is_own, open_backbone
from mdae.evaluation.features.small_cnn import PATCH, SmallCNN
from mdae.evaluation.finetuning.config import FinetuneOptions
from mdae.evaluation.finetuning.finetune import Study, fit_and_score
from mdae.networks.saved import load_model
from mdae.options import AugmentOptions
from mdae.seeding import numpy_generator, torch_generator


def test_its_features_are_of_the_volume_and_its_weights_of_the_seed():
    x = torch.randn((2, 1, 32, 32, 32), generator=torch_generator(0, "x"))
    features = SmallCNN(0).features(x)
    assert features.shape == (2, 128) and not torch.allclose(features[0], features[1])
    assert not torch.allclose(SmallCNN(0).features(x + 1), features), "brightness is not normalised away"
    assert torch.equal(SmallCNN(0).features(x), features) and not torch.equal(
        SmallCNN(1).features(x), features
    )


def test_a_scan_becomes_its_middle_at_2_mm(cohort):
    from mdae.data.catalogue import ScanEntry

    backbone = open_backbone("cnn")
    scan = ScanEntry("", "", "", "", next(cohort.rglob("*_T1w.nii.gz")))
    prepared = backbone.prepare(scan)
    volume = backbone.to_input(prepared)
    assert volume.shape == PATCH and 0.1 < (volume > prepared.record.background + 0.5).mean() < 0.9
    assert backbone.pretraining == {"salt": "", "hashes": []} and not is_own("cnn:1")


def test_a_crop_becomes_the_window_that_a_model_sees_of_it(model):
    """Nodules of 8 mm are nowhere in 192 mm at 2 mm."""
    like = load_model(model)
    backbone = open_backbone(f"cnn:{model}")
    assert backbone.patch == like.patch and backbone.preprocessing["contract"] == like.contract.to_dict()
    assert backbone.name == "cnn" and open_backbone(f"cnn:{model}:2").name == "cnn-2"
    assert torch.equal(backbone.network.layers[0][0].weight, open_backbone("cnn").network.layers[0][0].weight)
    assert fingerprint_of(backbone) != fingerprint_of(open_backbone("cnn"))
    with pytest.raises(ModelError):
        open_backbone("cnn:nowhere")


def test_it_learns_from_labels_alone_and_one_learning_rate_is_for_all_layers():
    options = FinetuneOptions(epochs=8, dropout=0.0, augment=AugmentOptions(), head_lr=3e-3).from_scratch()
    assert (options.lr, options.head_lr, options.layer_decay) == (1e-3, 3e-3, 1.0)
    labels = np.arange(24) % 2
    noise = numpy_generator(0, "cnn").standard_normal((24, 1, 32, 32, 32)).astype(np.float32)
    x, y = np.indices((32, 32))
    stripes = np.where(((x + y) % 8 < 4) == ((x - y) % 8 < 4), 1.0, -1.0)  # of the same mean as their absence
    volumes = noise + 1.5 * labels[:, None, None, None, None] * stripes[:, :, None].astype(np.float32)
    study = Study(
        make_backbone=lambda: open_backbone("cnn"),
        inputs=volumes,
        labels=labels.astype(float),
        subjects=np.arange(24),
        options=options,
        device="cpu",
    )
    parts = np.array(["train"] * 12 + ["val"] * 4 + ["test"] * 8)
    found = fit_and_score(study, parts)
    tested = found.scores[parts == "test"]
    assert tested[labels[16:] == 1].min() > tested[labels[16:] == 0].max()
    assert found.histories[0][-1].train_loss < found.histories[0][0].train_loss
