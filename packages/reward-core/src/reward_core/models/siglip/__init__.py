"""Scores based on SigLIP: Aesthetic predictor v2.5."""
