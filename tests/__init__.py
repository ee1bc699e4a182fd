"""The tests. Without a GPU, Triton's kernels run through its interpreter; it reads this when it is first imported."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
