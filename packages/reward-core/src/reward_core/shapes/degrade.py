"""Cleanliness faults of pixels. `MAGNITUDES` relates the strength of each to a measurable quantity."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image, ImageFilter

#: (magnitude at strength 0, magnitude at strength 1), linear in between.
MAGNITUDES: dict[str, tuple[float, float]] = {
    "colour_cast": (0.06, 0.34),  # opacity of a vivid color laid over the image
    "low_contrast": (0.85, 0.25),  # factor on each pixel's distance from middle gray (128)
    "blur": (0.45, 1.8),  # Gaussian sigma in 64ths of the image's side (pixels at 64)
    "noise": (5.0, 42.0),  # Gaussian sigma in levels of [0, 255], independent for each pixel and channel
    "jpeg": (1.2, 6.5),  # factor on the standard quantization tables; quality is 50 / factor, chroma 4:4:4
    "cut_off": (0.12, 0.42),  # fraction of the thing's width or height outside the frame (see layout)
}

#: The colors of color casts.
CASTS = ((255, 120, 0), (255, 220, 0), (60, 220, 40), (0, 200, 255), (40, 60, 255), (255, 40, 200))

#: The order in which faults are applied: light, lens, sensor, file.
PIXEL_FAULTS = ("colour_cast", "low_contrast", "blur", "noise", "jpeg")


def magnitude(kind: str, strength: float) -> float:
    """Return the magnitude of a fault of this kind and strength in (0, 1]."""
    low, high = MAGNITUDES[kind]
    return low + (high - low) * strength


def strength_of(kind: str, measured: float) -> float:
    """Return the strength for a measured magnitude, clipped to [0, 1]; 0 means no fault."""
    low, high = MAGNITUDES[kind]
    return min(1.0, max(0.0, (measured - low) / (high - low)))


def degrade(pixels: np.ndarray, strengths: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    """Apply pixel faults to pixels (H, W, 3), uint8, in the order of `PIXEL_FAULTS`.

    Args:
        pixels: the clean image.
        strengths: kind -> strength in (0, 1]; kinds that are not pixel faults are ignored.
        rng: the source of randomness.
    """
    for kind in PIXEL_FAULTS:
        if kind in strengths:
            pixels = _APPLY[kind](pixels, magnitude(kind, strengths[kind]), rng)
    return pixels


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def _cast(pixels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    haze = np.asarray(CASTS[int(rng.integers(len(CASTS)))], np.float32)
    return _to_bytes(pixels + np.float32(share) * (haze - pixels))


def _contrast(pixels: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    return _to_bytes(128 + np.float32(factor) * (pixels.astype(np.float32) - 128))


def _blur(pixels: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    sigma *= len(pixels) / 64
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))


def _noise(pixels: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(pixels.shape, dtype=np.float32)
    return _to_bytes(pixels + np.float32(sigma) * noise)


def _jpeg(pixels: np.ndarray, coarseness: float, rng: np.random.Generator) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=round(50 / coarseness), subsampling="4:4:4")
    return np.asarray(Image.open(file).convert("RGB"))


_APPLY = {"colour_cast": _cast, "low_contrast": _contrast, "blur": _blur, "noise": _noise, "jpeg": _jpeg}
