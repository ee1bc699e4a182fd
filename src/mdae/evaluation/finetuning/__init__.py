"""A whole network trained further on a label, from a probe of its features."""
