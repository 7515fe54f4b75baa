"""Prompts and scores in the metadata of PNG, JPEG and WebP files."""

from .prompt import FoundPrompt, read_prompt
from .scores import StoredScore, check_key, read_score, read_score_keys, read_stored_score, write_score
from .tagged_image import read_texts

SCORE_KEY = "ImageReward Score"  # written by the WebUI extension and the ComfyUI node

__all__ = [
    "SCORE_KEY",
    "FoundPrompt",
    "StoredScore",
    "check_key",
    "read_prompt",
    "read_score",
    "read_score_keys",
    "read_stored_score",
    "read_texts",
    "write_score",
]
