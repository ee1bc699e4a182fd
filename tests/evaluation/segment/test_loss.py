"""The loss: by hand, blind to what nobody labelled, and with a gradient that finds the labels."""

from __future__ import annotations

import math

import torch

from mdae.evaluation.segment.loss import SMOOTH, dice_and_cross_entropy


def one_hot(labels: torch.Tensor, num: int) -> torch.Tensor:
    return torch.stack([(labels == k).float() for k in range(num)], dim=1)


def test_by_hand():
    labels = torch.tensor([0, 0, 1, 1]).view(1, 1, 1, 4)
    scores = torch.zeros(1, 2, 1, 1, 4)
    agreement = (2 * 1.0 + SMOOTH) / (2 + 2 + SMOOTH)  # half of each voxel is called 1
    expected = math.log(2) + 1 - agreement
    torch.testing.assert_close(dice_and_cross_entropy(scores, one_hot(labels, 2)), torch.tensor(expected))


def test_what_nobody_labelled_and_labels_that_are_nowhere_change_nothing():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (1, 4, 4, 4), generator=generator)
    labels[0, 0] = -1
    scores = torch.randn(1, 2, 4, 4, 4, generator=generator)
    other = scores.clone()
    other[:, :, 0] = 50.0
    other[:, 1, 0] = -50.0
    loss = dice_and_cross_entropy(scores, one_hot(labels, 2))
    torch.testing.assert_close(loss, dice_and_cross_entropy(other, one_hot(labels, 2)))
    wide = torch.cat([scores, torch.full((1, 1, 4, 4, 4), -60.0)], dim=1)
    torch.testing.assert_close(loss, dice_and_cross_entropy(wide, one_hot(labels, 3)))


def test_its_gradient_finds_the_labels():
    labels = (torch.arange(64).view(1, 4, 4, 4) % 7 == 0).long()
    scores = torch.zeros(1, 2, 4, 4, 4, requires_grad=True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(dice_and_cross_entropy(scores, one_hot(labels, 2)), scores)
        with torch.no_grad():
            scores -= 5 * gradient
    assert torch.equal(scores.argmax(dim=1), labels)
