"""What all backends of `mdae.networks.norm` share."""

import torch

NORM_EPS = 1e-5
NEGATIVE_SLOPE = 0.01
CHANNELS_LAST = torch.channels_last_3d
