"""The Multi-dimensional Preference Score (MPS): CLIP and a cross model."""
