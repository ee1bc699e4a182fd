"""What the demo says of labels: who is learned from and tested, curves of a contrast, and the words about them."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from mdae.data.catalogue import ScanEntry
from mdae.errors import DataError
from mdae.evaluation.features.extractors import own_model
from mdae.evaluation.segment.volumes import LabelledVolume, Volume
from mdae.report import few_labels
from mdae.report.config import DemoConfig
from mdae.report.few_labels import (
    ALONE,
    BESIDE,
    PRETRAINED,
    TRIVIAL,
    UNTRAINED,
    Curve,
    LabelledContrast,
    curves_of,
    read_contrast,
)
from mdae.report.labelled import contract_of, own, parted
from mdae.report.savings import COLUMNS, Savings
from tests.report.test_demo import write_masks

NAMES = [f"ADNI-002-S-{number:04d}" for number in range(60)]


@pytest.mark.parametrize(("number", "learned", "tested"), [(6, 1, 5), (9, 4, 5), (12, 6, 6), (60, 8, 12)])
def test_half_are_learned_from_but_five_tested_at_least(tmp_path, number, learned, tested):
    one, other = parted(NAMES[:number], 0, where=tmp_path)
    assert (len(one), len(other)) == (learned, tested) and not set(one) & set(other)
    assert parted(NAMES[:number], 1, where=tmp_path)[0] != one


def test_masks_of_too_few_are_refused_in_one_line(cohort, tmp_path):
    write_masks(cohort, tmp_path / "masks", 5)
    config = DemoConfig(out=tmp_path / "demo", source=cohort, masks=tmp_path / "masks", contrasts=("T1w",))
    with pytest.raises(DataError, match="masks of 5 subjects, and 6 are wanted"):
        own(config, cohort)


def test_own_scans_and_masks_become_a_task(cohort, tmp_path):
    write_masks(cohort, tmp_path / "masks", 7)
    config = DemoConfig(out=tmp_path / "demo", source=cohort, masks=tmp_path / "masks", contrasts=("T1w",))
    data = own(config, cohort)
    contrast = read_contrast(data.tasks[0], data)
    assert contrast.labels == ("background", "label 1", "label 2") and data.sizes == (1, 2)
    assert (len(contrast.learned), len(contrast.tested)) == (2, 5)
    for one in (*contrast.learned, *contrast.tested):
        assert one.labels.shape == one.volume.shape and {0, 1, 2} == set(np.unique(one.labels))
    rows = (tmp_path / "demo" / "pretraining.csv").read_text()
    assert not any(name in rows for name in (*data.learned, *data.tested)) and rows.count(",T1w\n") == 5
    about = json.loads((data.tasks[0] / "dataset.json").read_text())
    assert about["labels"] == {"background": 0, "label 1": 1, "label 2": 2}


def test_crops_are_taken_as_they_are_and_heads_coarsely(tmp_path):
    def scan(name, shape, spacing):
        path = tmp_path / f"{name}.nii.gz"
        voxels = numpy_noise(shape)
        nib.save(nib.Nifti1Image(voxels, np.diag([spacing, spacing, spacing, 1.0])), path)
        return ScanEntry(name, name, "", "T1w", path)

    crop = contract_of([scan("Müller-05", (35, 50, 35), 1.0)])
    assert crop.spacing_mm == (1.0, 1.0, 1.0) and crop.crop == "none"
    head = contract_of([scan("A0001", (60, 80, 60), 3.0)])
    assert head.spacing_mm == (3.0, 3.0, 3.0) and head.crop == "anatomy"


def numpy_noise(shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def made(number: int, labels: bool) -> LabelledVolume:
    """A ball in noise that place, intensities and maps tell alike."""
    rng = np.random.default_rng(number)
    middle = rng.uniform(6, 10, 3)
    ball = sum((axis - m) ** 2 for axis, m in zip(np.indices((16, 16, 16)), middle, strict=True)) < 16
    data = (3 * ball + rng.normal(size=ball.shape)).astype(np.float32)
    return LabelledVolume(NAMES[number], Volume(data[None], (0.0,), (1.0, 1.0, 1.0)), ball.astype(np.int16))


def test_curves_of_a_contrast(model, monkeypatch):
    monkeypatch.setattr(few_labels, "POINTS", 60)
    subjects = [made(number, True) for number in range(7)]
    contrast = LabelledContrast("T1w", ("background", "ball"), subjects[:2], subjects[2:])
    models = {PRETRAINED: own_model(str(model))[0], UNTRAINED: own_model(f"untrained:{model}:5")[0]}
    curves = list(curves_of(contrast, models, (1, 2), 0))
    assert [(curve.encoder, curve.readout) for curve in curves] == [
        (PRETRAINED, ALONE),
        (PRETRAINED, BESIDE),
        (TRIVIAL, BESIDE),
        (UNTRAINED, ALONE),
        (UNTRAINED, BESIDE),
    ]
    for curve in curves:
        assert curve.dice[1].shape == curve.dice[2].shape == (3, 5, 1)
        assert 0.5 < curve.means(2).mean() <= 1
        found, truth = curve.shown > 0, subjects[2].labels > 0
        shown = 2 * (found & truth).sum() / (found.sum() + truth.sum())
        assert shown == pytest.approx(curve.means(2)[0, 0], abs=0.02), "the picture is what was scored"
    assert not np.array_equal(curves[0].dice[1], curves[3].dice[1])


def savings(untrained: dict[int, float], pretrained: dict[int, float]) -> Savings:
    """Of curves with these means, all else alike."""
    spread = np.random.default_rng(0).normal(0, 0.02, size=(3, 12, 1))

    def curve(encoder, readout, means):
        dice = {size: mean + spread for size, mean in means.items()}
        return Curve("FLAIR", encoder, readout, dice, np.zeros((2, 2, 2)))

    flat = dict.fromkeys(pretrained, 0.3)
    curves = [curve(PRETRAINED, readout, pretrained) for readout in (ALONE, BESIDE)]
    curves += [curve(UNTRAINED, readout, untrained) for readout in (ALONE, BESIDE)]
    return Savings([*curves, curve(TRIVIAL, BESIDE, flat)], {"T1w"})


def test_words_say_what_labels_were_saved():
    saved = savings({1: 0.5, 2: 0.6, 4: 0.7}, {1: 0.61, 2: 0.71, 4: 0.75})
    said = saved.sentence("FLAIR", ALONE)
    assert saved.headline() == "Pre-training saved labels in 2 of 2 comparisons"
    assert (
        "FLAIR, never seen in pre-training, maps alone: with 2 labelled subjects the pre-trained network"
        in said
    )
    assert "reaches Dice 0.71, the untrained one 0.70 with 4 (difference +0.010" in said
    assert "decided: +0.11 with 1, +0.11 with 2, +0.05 with 4" in said


def test_words_say_what_was_not_saved_and_not_decided():
    none = savings({1: 0.5, 2: 0.6, 4: 0.7}, {1: 0.5, 2: 0.6, 4: 0.7})
    said = none.sentence("FLAIR", BESIDE)
    assert none.headline() == "Here pre-training saved no labels"
    assert "with 4 labelled subjects the pre-trained network reaches Dice 0.70" in said
    assert "the untrained one 0.70: no label is saved" in said
    assert "With equally many labels the difference is undecided." in said
    assert said.endswith("Without a network, place and intensities reach 0.30 with 4.")


def test_a_row_for_every_contrast_readout_and_number_of_labels():
    rows = [
        dict(zip(COLUMNS, row, strict=True))
        for row in savings({1: 0.5, 2: 0.6, 4: 0.7}, {1: 0.6, 2: 0.7, 4: 0.8}).rows()
    ]
    assert [(row["readout"], row["labelled_subjects"]) for row in rows] == [
        (readout, size) for readout in (ALONE, BESIDE) for size in (1, 2, 4)
    ]
    for row in rows:
        assert not row["seen_in_pretraining"] and row["less_untrained"] == pytest.approx(0.1)
        assert row["pretrained_dice"] - row["trivial_dice"] == pytest.approx(row["less_trivial"])
        assert row["pretrained_low"] < row["pretrained_dice"] < row["pretrained_high"]
        assert row["less_untrained_p_holm"] < 0.05
