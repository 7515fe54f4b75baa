"""Checks of prompts and images that judges receive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...errors import InputError
from ...inputs.image_file import ImageSource
from ...inputs.tokenizer import check_prompts


def as_list(items: Any) -> Any:
    """Return a pandas column as a list, and anything else unchanged."""
    return items.tolist() if hasattr(items, "iloc") and hasattr(items, "tolist") else items


def checked_images(images: Sequence[ImageSource]) -> Sequence[ImageSource]:
    """Return a list of images. Raises InputError unless it is a non-empty list."""
    images = as_list(images)
    if isinstance(images, (str, bytes, dict, Tensor)) or not hasattr(images, "__len__"):
        raise InputError(f"Cannot score images: expected a list, got {type(images).__name__}.")
    if not len(images):
        raise InputError("Cannot use the images: no images given.")
    return images


def checked_pairs(
    prompts: Sequence[str], images: Sequence[ImageSource]
) -> tuple[Sequence[str], Sequence[ImageSource]]:
    """Return prompts and images as lists. Raises InputError unless there is one prompt for each image."""
    prompts, images = as_list(prompts), as_list(images)
    check_prompts(prompts)
    if len(prompts) != len(images):
        raise InputError(
            f"Cannot score the pairs: got {len(prompts)} prompts but {len(images)} images. "
            "Give one prompt for each image."
        )
    return prompts, checked_images(images)
