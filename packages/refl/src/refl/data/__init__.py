"""Prompt files, and images with captions."""
