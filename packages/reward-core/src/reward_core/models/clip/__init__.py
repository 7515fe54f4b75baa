"""Scores based on CLIP: its cosine, PickScore, HPSv2 and the Aesthetic head."""
