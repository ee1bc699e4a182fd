"""Using and judging an encoder: embeddings, probes with intervals, reconstructions."""
