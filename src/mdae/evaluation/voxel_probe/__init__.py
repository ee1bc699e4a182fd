"""Single voxels read out of a frozen encoder."""
