"""Constants on a device are shared by those who ask for the same values of the same type."""

from __future__ import annotations

import torch

from mdae.tensors import constant

CPU = torch.device("cpu")


def test_equal_numbers_of_another_type_are_another_constant():
    """(3, 5) == (3.0, 5.0): whoever asked first once decided the type that all others got."""
    assert constant((3.0, 5.0), torch.float32, CPU).dtype == torch.float32
    assert constant((3, 5), torch.int64, CPU).dtype == torch.int64
    assert constant((3, 5), torch.int64, CPU) is constant((3, 5), torch.int64, CPU)
