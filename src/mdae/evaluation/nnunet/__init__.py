"""Segmentation: nnU-Net's own planning, training and prediction from our weights, scored by Dice and NSD."""
