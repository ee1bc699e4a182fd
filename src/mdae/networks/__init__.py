"""The residual-encoder U-Net with FiLM, its presets, its fold into a plain encoder, and saved models."""

from mdae.networks.presets import PRESETS, NetworkConfig, Preset, preset
from mdae.networks.unet import ResidualEncoder, ResidualUNet

__all__ = ["PRESETS", "NetworkConfig", "Preset", "ResidualEncoder", "ResidualUNet", "preset"]
