"""Group normalization on a GPU."""
