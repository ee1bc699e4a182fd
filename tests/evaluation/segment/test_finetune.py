"""Fine-tuning: it starts from the readout, keeps the best look, and is the same when repeated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mdae.errors import DataError, TrainingError
from mdae.evaluation.segment import finetune as tuning
from mdae.evaluation.segment.config import FewLabelOptions
from mdae.evaluation.segment.patches import Example, PatchSampler
from mdae.evaluation.segment.segmenter import fit_segmenter
from mdae.evaluation.segment.volumes import UNLABELLED
from mdae.evaluation.statistics.overlap import dice
from mdae.options import AugmentOptions
from tests.evaluation.segment import made

SHORT = FewLabelOptions(
    steps=12, batch=2, looks=2, points=60, overlap=0.0, augment=AugmentOptions(rotate_deg=5.0)
)


def example(number: int) -> Example:
    own = made.subjects(1, first=number)[0]
    return Example(own, np.stack([own.labels == k for k in range(3)]).astype(np.float32))


def test_it_gets_better_and_what_is_kept_is_the_best_look():
    longer, val = replace(SHORT, steps=24, lr=3e-3, head_lr=3e-3), made.subjects(2, first=6)
    fitted = fit_segmenter(made.subjects(2), made.model(), longer, made.LABELS, val=val)
    looks = fitted.notes["looks"]
    assert [step for step, _ in looks] == [0, 12, 24]
    assert fitted.notes["best_dice"] == max(dice for _, dice in looks) > looks[0][1]
    assert fitted.tuned and fitted.notes["step"] > 0
    found = [
        np.mean([dice(fitted.scores(own.volume).argmax(axis=0) == k, own.labels == k) for k in (1, 2)])
        for own in val
    ]
    assert np.mean(found) == pytest.approx(fitted.notes["best_dice"], abs=1e-6)


def test_what_only_makes_it_worse_leaves_the_readout():
    wild, val = replace(SHORT, lr=1.0, head_lr=30.0), made.subjects(2, first=6)
    fitted = fit_segmenter(made.subjects(2), made.model(), wild, made.LABELS, val=val)
    plain = fit_segmenter(made.subjects(2), made.model(), replace(SHORT, steps=0), made.LABELS, val=val)
    assert not fitted.tuned and fitted.notes["step"] == 0
    volume = made.subjects(1, first=5)[0].volume
    np.testing.assert_allclose(fitted.scores(volume), plain.scores(volume), atol=1e-5)


def test_without_validation_subjects_inner_folds_choose_and_all_are_learned_from(monkeypatch):
    seen: list[tuple[set[str], set[str]]] = []
    original = tuning.finetune

    def spy(network, train, val, *rest, **options):
        seen.append(({e.own.subject for e in train}, {e.own.subject for e in val}))
        return original(network, train, val, *rest, **options)

    monkeypatch.setattr("mdae.evaluation.segment.segmenter.finetune", spy)
    fit_segmenter(made.subjects(3), made.model(), replace(SHORT, lr=3e-3), made.LABELS)
    everyone = {"p00", "p01", "p02"}
    (first, second, *last) = seen
    assert first[1] | second[1] == everyone and not first[1] & second[1]
    assert all(not train & val for train, val in seen) and first[0] | first[1] == everyone
    assert all(part == (everyone, set()) for part in last)


def test_one_subject_says_how_little_it_tells():
    fitted = fit_segmenter(made.subjects(1), made.model(), SHORT, made.LABELS)
    assert not fitted.tuned and "one labelled subject" in fitted.notes["chosen_on"]


def test_repeated_it_comes_out_the_same_and_another_seed_does_not():
    one, same, other = (
        fit_segmenter(
            made.subjects(2), made.model(), SHORT, made.LABELS, val=made.subjects(1, first=6), seed=seed
        )
        for seed in (0, 0, 1)
    )
    assert one.notes == same.notes and one.notes["looks"] != other.notes["looks"]


def test_nobody_is_learned_from_and_chosen_by():
    with pytest.raises(DataError, match="p01 is both"):
        fit_segmenter(made.subjects(2), made.model(), SHORT, made.LABELS, val=made.subjects(2, first=1))


def test_weights_that_are_not_finite_are_said():
    broken = made.model()
    with torch.no_grad():
        broken.network.decoder.stages[-1].convs[0].norm.bias.fill_(float("inf"))
    with pytest.raises(DataError, match="NaN or infinite"):
        fit_segmenter(made.subjects(1), broken, SHORT, made.LABELS)


def test_a_loss_that_is_not_finite_is_said():
    with pytest.raises(TrainingError, match="by step 2 of fine-tuning"):
        tuning._finite(torch.tensor([1.0, float("nan")]), 2)


# -- patches ------------------------------------------------------------------------------------------------------


def test_contrast_context_and_labels_are_turned_alike():
    """The context is the labels here, so that it must stay what they are."""
    sampler = PatchSampler([example(0), example(1)], (16, 16, 16), SHORT, 0, torch.device("cpu"))
    x, context, target = sampler(3)
    assert x.shape == (2, 1, 16, 16, 16) and target.shape == (2, 3, 16, 16, 16)
    inside = target.sum(dim=1, keepdim=True) > 0.999
    torch.testing.assert_close(context * inside, target * inside)
    organs = target[:, 1:].sum(dim=1) > 0.9
    assert x[:, 0][organs].mean() > x[:, 0][~organs].mean() + 1, "organs are bright"


def test_a_contrast_that_is_lacking_stays_so_whatever_the_augmentation():
    own = example(0)
    data = np.concatenate([own.own.volume.data, np.zeros_like(own.own.volume.data)])
    volume = replace(own.own.volume, data=data, background=(*own.own.volume.background, 0.0))
    both = replace(own, own=replace(own.own, volume=volume))
    bright = replace(SHORT, augment=AugmentOptions(gain=0.5, shift=0.5, gamma=0.5))
    x, _, _ = PatchSampler([both], (16, 16, 16), bright, 0, torch.device("cpu"))(0)
    assert not x[:, 1].any() and x[:, 0].any()


def test_patches_are_around_labels_as_often_as_wanted():
    hit = {}
    for share in (0.0, 1.0):
        options = replace(SHORT, foreground=share, augment=AugmentOptions(), batch=8)
        sampler = PatchSampler([example(0)], (4, 4, 4), options, 0, torch.device("cpu"))
        found = [sampler(step)[2][:, 1:].sum(dim=(1, 2, 3, 4)) > 0 for step in range(5)]
        hit[share] = float(torch.cat(found).float().mean())
    assert hit[1.0] == 1 and hit[0.0] < 0.7


def test_beyond_the_scan_nothing_is_labelled():
    own = example(0)
    options = replace(SHORT, augment=AugmentOptions())
    _, _, target = PatchSampler([own], (32, 32, 32), options, 0, torch.device("cpu"))(0)
    assert target.sum() == 2 * (own.own.labels != UNLABELLED).sum()
