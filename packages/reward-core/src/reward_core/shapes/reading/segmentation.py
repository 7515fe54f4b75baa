"""Segment an image: background, noise, colors and regions.

Images are 64 x 64 pixels, float32, with levels in [0, 255].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .regions import connected_regions

SIDE = 64
#: Centers of the pixels (64, 64), in pixels from the top left corner.
DOWN, ACROSS = np.mgrid[:SIDE, :SIDE].astype(np.float32) + 0.5

_BORDER = np.flatnonzero(np.minimum(np.minimum(ACROSS, SIDE - ACROSS), np.minimum(DOWN, SIDE - DOWN)) < 2)
_PLANE = np.stack([np.ones_like(ACROSS), ACROSS / SIDE - 0.5, DOWN / SIDE - 0.5]).reshape(3, -1)  # (3, 4096)
_MOST_COLORS, _MOST_REGIONS, _LEAST_AREA = 8, 12, 4
_STANDS_OUT = 60.0  # levels from the background; the palest named color, pink, has 108
# For `_merge_rims`: minimum fraction of touching pixels, maximum deviation relative to the step.
_RIM_SHARE, _RIM_HUE = 0.12, 0.42
_ALIKE = 0.16  # maximum relative difference of two steps from the background of the same color
SOFTENED_NOISE = (1.0, 0.375, 0.2734)  # remaining fraction of white noise after `soften` 0, 1, 2 times


def soften(pixels: np.ndarray) -> np.ndarray:
    """Blur (H, W, 3) by [1 2 1] / 4 in both directions, a sigma of 0.71 pixels; edges are repeated."""
    rows = 2 * pixels
    rows[1:] += pixels[:-1]
    rows[0] += pixels[0]
    rows[:-1] += pixels[1:]
    rows[-1] += pixels[-1]
    both = 2 * rows
    both[:, 1:] += rows[:, :-1]
    both[:, 0] += rows[:, 0]
    both[:, :-1] += rows[:, 1:]
    both[:, -1] += rows[:, -1]
    both *= 1 / 16
    return both


def _largest(channels: np.ndarray) -> np.ndarray:
    """Return the maximum over the last axis of size 3; several times faster than max(-1)."""
    return np.maximum(np.maximum(channels[..., 0], channels[..., 1]), channels[..., 2])


@dataclass(frozen=True, eq=False)
class Ground:
    """The background of an image.

    Attributes:
        plane: (64, 64, 3), the background without things.
        noise: sigma of each pixel's noise.
    """

    plane: np.ndarray
    noise: float

    @property
    def level(self) -> tuple[float, float, float]:
        """Color in the middle."""
        return tuple(
            self.plane[SIDE // 2 - 1 : SIDE // 2 + 1, SIDE // 2 - 1 : SIDE // 2 + 1].mean((0, 1)).tolist()
        )


def find_ground(pixels: np.ndarray, soft: np.ndarray) -> Ground:
    """Fit the background, a plane that most of the border shows, and measure the noise on it.

    Noise is measured with J. Immerkær's filter ("Fast noise variance estimation", 1996), which is 0 on
    planes, and corrected for clipping at 0 and 255.
    """
    rows = pixels[:-2] - 2 * pixels[1:-1] + pixels[2:]
    grain = np.abs(
        rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]
    )  # (62, 62, 3), sigma 6 for white noise of 1
    rough = float(np.median(grain[::2, ::2])) / (0.6745 * 6)
    flat = np.ascontiguousarray(soft.reshape(-1, 3).T)  # (3, 4096)
    level = np.median(flat[:, _BORDER], axis=1)
    plane = np.broadcast_to(level[:, None].astype(np.float32), flat.shape)
    left = 0.4 * rough
    for width in (24 + 2 * left, 10 + 1.5 * left, 6 + 1.2 * left):
        on_ground = (np.abs(flat - plane).max(0) < width).astype(np.float32)  # (4096,)
        if on_ground.sum() < 64:
            break
        weighted = _PLANE * on_ground  # (3, 4096)
        slopes = np.linalg.solve(weighted @ _PLANE.T + 1e-3 * np.eye(3), weighted @ flat.T)  # (3, 3)
        plane = slopes.T.astype(np.float32) @ _PLANE
    inner = on_ground.reshape(SIDE, SIDE)[1:-1, 1:-1]
    if inner.sum() > 400:
        rough = float(np.einsum("hw,hwc->", inner, grain)) / (3 * float(inner.sum())) / (0.7979 * 6)
    return Ground(
        np.ascontiguousarray(plane.T).reshape(soft.shape),
        _unclipped(rough, round(float(np.clip(level.mean(), 0, 255)))),
    )


_SIGMAS = np.arange(0.0, 81.0)


@cache
def _clipped_sigmas(level: int) -> np.ndarray:
    """Return the remaining sigma for each of `_SIGMAS` on this level after clipping to [0, 255]."""
    normal = np.random.default_rng(0).standard_normal(4000)
    return np.clip(level + _SIGMAS[:, None] * normal, 0, 255).std(1)


def _unclipped(sigma: float, level: int) -> float:
    return float(np.interp(sigma, _clipped_sigmas(level), _SIGMAS)) if sigma > 1 else sigma


@dataclass(frozen=True, eq=False)
class Region:
    """Pixels that are nearer to one color than to the background; x, y and radius are in pixels."""

    mask: np.ndarray
    x: float
    y: float
    radius: float


def find_regions(soft: np.ndarray, ground: Ground, gain: float) -> list[Region]:
    """Return the regions of a softened image, at most 12, the largest first.

    Args:
        soft: the softened image.
        ground: its background.
        gain: factor by which haze reduces differences between colors.
    """
    noise = SOFTENED_NOISE[1] * ground.noise
    step = soft - ground.plane
    colors = _find_colors(soft, step, max(_STANDS_OUT * gain, 8 + 2.2 * noise), noise)
    if not colors:
        return []
    table = np.stack(colors)  # (K, 3)
    power = np.square(table).sum(1)
    square = np.einsum("...c,...c", step, step)
    away = np.nonzero(square > 0.24 * power.min())  # others are less than half-way to any color
    steps = step[away]  # (M, 3)
    along = steps @ (table / power[:, None]).T  # (M, K): 0 at the ground, 1 at the color
    # Distance from the line segment between the background and each color.
    beyond = np.clip(along, 0, 1) - along
    nearest = ((np.square(beyond) - np.square(along)) * power).argmin(-1)  # (M,)
    half_way = along[np.arange(len(nearest)), nearest] > 0.5
    kinds = np.full(square.shape, -1)
    kinds[away] = np.where(half_way, nearest, -1)
    numbers, areas = connected_regions(kinds)
    large = [number for number, area in enumerate(areas[:_MOST_REGIONS], start=1) if area >= _LEAST_AREA]
    masks = [numbers == number for number in large]
    return [_region(mask) for mask in _merge_rims(masks, step)]


def _merge_rims(masks: list[np.ndarray], step: np.ndarray) -> list[np.ndarray]:
    """Merge regions with a larger region that they touch if their color is between its and the background's.

    If color is blurred more than lightness, as in most JPEG files, thin parts of a thing are paler and have a
    slightly different hue than its middle.
    """
    merged: list[np.ndarray] = []
    colors: list[np.ndarray] = []
    for mask in masks:
        color = step[mask].mean(0)
        for index, (larger, other) in enumerate(zip(merged, colors, strict=True)):
            if _share_of_rim(mask, larger) < _RIM_SHARE:
                continue
            along = float(color @ other / (other @ other))
            off = float(np.sqrt(max(color @ color - along**2 * (other @ other), 0)))
            if 0.3 < along < 1.1 and off < _RIM_HUE * along * np.sqrt(other @ other):
                merged[index] = larger | mask
                break
        else:
            merged.append(mask)
            colors.append(color)
    return merged


def _share_of_rim(mask: np.ndarray, larger: np.ndarray) -> float:
    """Return the fraction of a mask's pixels that touch the other mask."""
    near = np.zeros_like(larger)
    near[1:] |= larger[:-1]
    near[:-1] |= larger[1:]
    near[:, 1:] |= larger[:, :-1]
    near[:, :-1] |= larger[:, 1:]
    return float((near & mask).sum()) / float(mask.sum())


def _region(mask: np.ndarray) -> Region:
    x, y = float(ACROSS[mask].mean()), float(DOWN[mask].mean())
    return Region(mask, x, y, float(mask.sum() / np.pi) ** 0.5)


def _find_colors(soft: np.ndarray, step: np.ndarray, least: float, noise: float) -> list[np.ndarray]:
    """Return the steps (3,) from the background to the colors of the things, taken from flat areas.

    Starting at the flattest pixel, a color is the mean of the pixels similar to it. It explains all pixels
    between it and the background; the others are searched further.
    """
    length = np.sqrt(np.einsum("...c,...c", step, step))
    open_ = length > least
    if not open_.any():
        return []
    slope = np.zeros(length.shape, np.float32)
    across = _largest(np.abs(soft[1:-1, 2:] - soft[1:-1, :-2]))
    down = _largest(np.abs(soft[2:, 1:-1] - soft[:-2, 1:-1]))
    slope[1:-1, 1:-1] = np.maximum(across, down)
    # Only pixels that are not explained yet are kept.
    indices = np.nonzero(open_)
    step, length, slope = (
        step[indices],
        length[indices],
        slope[indices] / length[indices],
    )  # (M, 3), (M,), (M,)
    slack = 1.6 * noise + 3
    colors: list[np.ndarray] = []
    while len(step) >= 5 and len(colors) < _MOST_COLORS:
        color = step[(slope + 0.3 * (length < 0.6 * length.max())).argmin()]
        alike = np.zeros(len(step), bool)
        for _ in range(2):
            reach = _ALIKE * np.sqrt(color @ color) + slack
            alike = np.square(step - color).sum(-1) < reach**2
            if not alike.any():
                break
            color = step[alike].mean(0)
        colors.append(color)
        size = np.sqrt(color @ color)
        along = step @ color / size**2
        off = np.sqrt(np.maximum(np.square(step).sum(-1) - np.square(along * size), 0))
        explained = (off < 0.2 * size * np.clip(along, 0.3, 1) + slack) & (along < 1.35)
        rest = ~(explained | alike)
        step, length, slope = step[rest], length[rest], slope[rest]
    return colors
