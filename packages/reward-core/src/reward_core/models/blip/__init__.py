"""The BLIP score: cosine of image and text."""
