"""Warnings about images whose levels Pillow clips in 8-bit RGB.

Pillow's ``convert("RGB")`` clips 16-bit, 32-bit and float grayscale to levels 0-255: a 16-bit photo turns
white, and floats in [0, 1] turn black. The clipped image is scored, as in the original.
"""

from __future__ import annotations

import threading

import numpy as np
from PIL import Image

from ..errors import ClippedLevelsWarning
from ..runs.caller_warning import warn_caller

ADVICE = "Convert it to 8 bits before scoring it"


def clipped_levels(image: Image.Image) -> str | None:
    """Return a description of the levels that Pillow clips in a loaded image, or None."""
    if not (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        return None
    levels = np.asarray(image)
    low, high = levels.min(), levels.max()
    levels_text = f"mode {image.mode!r} with levels {low:g} to {high:g}"
    if not (np.isfinite(low) and np.isfinite(high)):
        return f"{levels_text}: Pillow converts NaN and infinite levels to black or white"
    if low < 0 or high > 255:
        return f"{levels_text}: Pillow clips them to 0-255, so parts turn black or white"
    if image.mode == "F" and 0 < high <= 1:
        return f"{levels_text}: Pillow treats them as levels 0-255, so the image turns black"
    return None


def clipping_message(image: Image.Image, name: str) -> str | None:
    """Return the warning about a loaded image whose levels are clipped, or None."""
    description = clipped_levels(image)
    return description and f"{name}: {description}. {ADVICE}."


def warn_if_clipped(image: Image.Image, name: str) -> None:
    """Warn if the levels of a loaded image are clipped."""
    if message := clipping_message(image, name):
        warn_caller(message, ClippedLevelsWarning)


class FirstClippedImage:
    """A check that warns only about the first clipped image of a long run."""

    def __init__(self) -> None:
        self.warned, self.lock = False, threading.Lock()

    def check(self, image: Image.Image, name: str) -> None:
        """Warn if this is the first image with clipped levels."""
        if self.warned or not (message := clipping_message(image, name)):
            return
        with self.lock:
            first, self.warned = not self.warned, True
        if first:
            warn_caller(f"{message} Further images like this one are not reported.", ClippedLevelsWarning)
