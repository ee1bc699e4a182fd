"""Segmentation from few masks: a readout of single voxels, and the network that is fine-tuned from it."""
