"""Sample backgrounds and positions: one thing, two things in a relation, a cut-off, an extra thing."""

from __future__ import annotations

from dataclasses import replace
from math import cos, pi, radians, sin

import numpy as np

from .render import Background, Mark
from .truth import DIRECTIONS

MARGIN = 0.03  # between a thing and the frame, as a fraction of the side
GAP = 0.04  # between the bounding boxes of two things
AXIS_JITTER = 15.0  # degrees off the relation's axis; less than truth.RELATION_TOLERANCE


def sample_background(rng: np.random.Generator) -> Background:
    """Return a random light background, plain or graded, neutral or slightly tinted.

    Every channel is in [212, 255], and the channels of a point differ by at most 18. So every named color
    contrasts with it, and a darker or strongly tinted background is always due to a fault.
    """
    graded, tinted = rng.random(2) < 0.5
    level, tilt, heading = rng.random(3)
    tints = rng.random(3)
    low, high = 218.0, 240.0
    tint = (tints - tints.mean()) * (15.0 if tinted else 0.0)
    start = low + (high - low) * level + tint
    # A graded background gets lighter by up to 16 levels.
    end = start + (4 + 12 * tilt) * graded
    heading *= 2 * pi
    bounds = (212.0, 255.0)
    return Background(
        tuple(np.clip(start, *bounds).tolist()),
        tuple(np.clip(end, *bounds).tolist()),
        (cos(heading), sin(heading)),
    )


def place_one(mark: Mark, rng: np.random.Generator) -> Mark:
    """Return the mark at a random position inside the frame."""
    left, right, up, down = mark.reach
    x, y = rng.random(2).tolist()
    return replace(
        mark,
        x=MARGIN + left + x * (1 - 2 * MARGIN - left - right),
        y=MARGIN + up + y * (1 - 2 * MARGIN - up - down),
    )


def axis_angle(relation: str) -> float:
    """Return the direction of a relation in degrees, clockwise from "right of" (y points down)."""
    return {"right of": 0.0, "below": 90.0, "left of": 180.0, "above": 270.0}[relation]


def place_two(first: Mark, second: Mark, angle: float, rng: np.random.Generator) -> tuple[Mark, Mark]:
    """Return both marks inside the frame, not touching, the first in direction `angle` of the second.

    The angle is in degrees; see `axis_angle`.
    """
    ux, uy = cos(radians(angle)), sin(radians(angle))
    near, far = _distances(first, second, ux, uy)
    stretch, x, y = rng.random(3).tolist()
    distance = near + stretch * max(0.0, min(far - near, 0.3))
    dx, dy = distance * ux, distance * uy
    (l1, r1, u1, d1), (l2, r2, u2, d2) = first.reach, second.reach
    left, right = max(l2, l1 - dx), max(r2, r1 + dx)
    up, down = max(u2, u1 - dy), max(d2, d1 + dy)
    x = MARGIN + left + x * max(0.0, 1 - 2 * MARGIN - left - right)
    y = MARGIN + up + y * max(0.0, 1 - 2 * MARGIN - up - down)
    return replace(first, x=x + dx, y=y + dy), replace(second, x=x, y=y)


def _distances(first: Mark, second: Mark, ux: float, uy: float) -> tuple[float, float]:
    """Return the minimum center distance without touching and the maximum inside the frame."""
    (l1, r1, u1, d1), (l2, r2, u2, d2) = first.reach, second.reach
    inner = 1 - 2 * MARGIN
    near, far = [], []
    for u, back, front in (
        (ux, r1 + l2, r2 + l1) if ux < 0 else (ux, l1 + r2, l2 + r1),
        (uy, d1 + u2, d2 + u1) if uy < 0 else (uy, u1 + d2, u2 + d1),
    ):
        # `back`: the sides that face each other; `front`: the sides that face the frame.
        if abs(u) > 1e-9:
            near.append((back + GAP) / abs(u))
            far.append((inner - front) / abs(u))
    return min(near), min(far)


def cut_off(mark: Mark, other: Mark | None, share: float, rng: np.random.Generator) -> Mark:
    """Return the mark moved out of the frame by `share` of its width or height, away from the other mark."""
    draw = int(rng.integers(4))
    side = tuple(DIRECTIONS)[draw]
    if other is not None:
        dx, dy = mark.x - other.x, mark.y - other.y
        # Along the longer axis, so that the move makes the relation clearer.
        horizontal = abs(dx) >= abs(dy)
        side = ("left of" if dx < 0 else "right of") if horizontal else ("above" if dy < 0 else "below")
    left, right, up, down = mark.reach
    if side == "left of":
        return replace(mark, x=left - share * (left + right))
    if side == "right of":
        return replace(mark, x=1 - right + share * (left + right))
    if side == "above":
        return replace(mark, y=up - share * (up + down))
    return replace(mark, y=1 - down + share * (up + down))


def place_extra(mark: Mark, others: list[Mark], rng: np.random.Generator) -> Mark | None:
    """Return the mark at a free position inside the frame, or None if none of 64 positions is free."""
    left, right, up, down = mark.reach
    corners = MARGIN + rng.random((64, 2)) * (1 - 2 * MARGIN - np.array([left + right, up + down]))
    x, y = corners[:, 0] + left, corners[:, 1] + up
    free = np.ones(len(corners), bool)
    for other in others:
        x0, y0, x1, y1 = other.box
        apart = (x + right + GAP < x0) | (x - left - GAP > x1) | (y + down + GAP < y0) | (y - up - GAP > y1)
        free &= apart
    if not free.any():
        return None
    chosen = int(np.argmax(free))
    return replace(mark, x=float(x[chosen]), y=float(y[chosen]))
