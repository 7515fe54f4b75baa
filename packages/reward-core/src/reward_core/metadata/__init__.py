"""Prompts out of, and scores into, the metadata of PNG, JPEG and WebP files; nothing else in them changes."""

from .picture_file import check_key, read_score, read_texts, write_score
from .prompt import FoundPrompt, read_prompt

SCORE_KEY = "ImageReward Score"  # as the WebUI extension and the ComfyUI node write it

__all__ = ["SCORE_KEY", "FoundPrompt", "check_key", "read_prompt", "read_score", "read_texts", "write_score"]
