"""Warnings for images whose levels Pillow clips when it converts them to 8-bit RGB.

Pillow's ``convert("RGB")`` keeps levels 0-255 of 16-bit, 32-bit and float grayscale and clips all others: a
16-bit photo turns white, floats in [0, 1] turn black. Scores are of the clipped image, as the original's are.
"""

from __future__ import annotations

import threading

import numpy as np
from PIL import Image

from ..errors import ClippedLevelsWarning
from ..runs.caller_warning import warn_caller

ADVICE = "Convert it to 8 bits before scoring it"


def clipped_levels(image: Image.Image) -> str | None:
    """Return what Pillow loses of a loaded image's levels in 8 bits; None if it loses nothing."""
    if not (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        return None
    levels = np.asarray(image)
    low, high = levels.min(), levels.max()
    found = f"mode {image.mode!r} with levels {low:g} to {high:g}"
    if not (np.isfinite(low) and np.isfinite(high)):
        return f"{found}: Pillow reads those that are not finite as black or white"
    if low < 0 or high > 255:
        return f"{found}: Pillow clips them to 0-255, so that parts turn all black or all white"
    if image.mode == "F" and 0 < high <= 1:
        return f"{found}: Pillow takes them for levels 0-255, so that the image turns black"
    return None


def warn_if_clipped(image: Image.Image, name: str) -> None:
    """Warn if the levels of a loaded image are clipped."""
    if lost := clipped_levels(image):
        warn_of_levels(lost, name)


def warn_of_levels(lost: str, name: str) -> None:
    """Warn of what `clipped_levels` found in an image."""
    warn_caller(f"{name}: {lost}. {ADVICE}.", ClippedLevelsWarning)


class FirstClippedImage:
    """Warns of the first such image of a long run only, so that a million of them are one line."""

    def __init__(self) -> None:
        self.warned, self.lock = False, threading.Lock()

    def check(self, image: Image.Image, name: str) -> None:
        """Warn if the image is the first whose levels are clipped."""
        if self.warned or not (lost := clipped_levels(image)):
            return
        with self.lock:
            first, self.warned = not self.warned, True
        if first:
            more = "Other images like it in this run are not named."
            warn_caller(f"{name}: {lost}. {ADVICE}. {more}", ClippedLevelsWarning)
