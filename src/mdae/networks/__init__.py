"""Networks behind one interface, by name and kind, their fold into plain ones, and saved models."""

from mdae.networks.base import Network, NetworkConfig, SparseNetwork, StageEncoder
from mdae.networks.registry import PRESETS, NetworkSpec, preset, register

# Each registers its presets on import, in the order in which they are listed.
# isort: split
from mdae.networks import unet

# isort: split
from mdae.networks import primus

__all__ = [
    "PRESETS",
    "Network",
    "NetworkConfig",
    "NetworkSpec",
    "SparseNetwork",
    "StageEncoder",
    "preset",
    "primus",
    "register",
    "unet",
]
