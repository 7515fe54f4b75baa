"""Learning curves as SVG text for a page that is written often; matplotlib needs a second for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reward_core.printing.axis_ticks import axis_ticks
from reward_core.printing.escapes import html_text

from .curves import Line, Panel

WIDTH, HEIGHT = 440, 210  # view box; scaled to the width of its column
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 26, 30  # the left margin grows with the labels
DIGIT = 7.7  # width of a digit in the page's font of 12 pixels


@dataclass(frozen=True)
class _Axis:
    """A linear map from values to pixels."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)


def panel_svg(panel: Panel) -> str:
    """Return a panel as an SVG element, without its title."""
    lines = [line for line in panel.lines if line.points]
    x, y = _axes(lines)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="curve" role="img" ']
    parts.append(f'aria-label="{html_text(panel.title)} by step">')
    parts += _grid(x, y)
    for line in lines:
        parts += _bars(line, x, y) if line.marked else _band(line, x, y)
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value, _ in line.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{line.color}" stroke-width="1.6"/>')
        if line.marked or len(line.points) == 1:
            parts += [_dot(line, x(step), y(value), step, value) for step, value, _ in line.points]
    if len(lines) > 1:
        parts += _legend(lines, x.first)
    return "".join([*parts, "</svg>"])


def _axes(lines: Sequence[Line]) -> tuple[_Axis, _Axis]:
    """Return the axes of steps and of values, which include the bands."""
    steps = [step for line in lines for step, _, _ in line.points]
    values = [
        value + sign * (band if math.isfinite(band) else 0.0)
        for line in lines
        for _, value, band in line.points
        for sign in (-1, 1)
    ]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    last = max(steps) if max(steps) > min(steps) else min(steps) + 1
    y = _Axis(low - margin, high + margin, HEIGHT - BOTTOM, TOP)
    longest = max(len(_label(value)) for value in axis_ticks(y.low, y.high))
    return _Axis(min(steps), last, max(LEFT, 8 + DIGIT * longest), WIDTH - RIGHT), y


def _label(tick: float) -> str:
    """Return all digits of a round number, which may differ from the next one in a late digit."""
    return f"{tick:.12g}"


def _grid(x: _Axis, y: _Axis) -> list[str]:
    parts = []
    for value in axis_ticks(y.low, y.high):
        parts.append(f'<path class="grid" d="M{x.first:.1f},{y(value):.1f}H{WIDTH - RIGHT}"/>')
        position = f'x="{x.first - 6:.1f}" y="{y(value) + 4:.1f}"'
        parts.append(f'<text {position} text-anchor="end">{_label(value)}</text>')
    for step in axis_ticks(x.low, x.high):
        if step == int(step):
            parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{step:g}</text>')
    return parts


def _band(line: Line, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    points = [(step, value, band) for step, value, band in line.points if math.isfinite(band)]
    if len(points) < 2:
        return []
    upper = [f"{x(step):.1f},{y(value + band):.1f}" for step, value, band in points]
    lower = [f"{x(step):.1f},{y(value - band):.1f}" for step, value, band in reversed(points)]
    return [f'<polygon points="{" ".join(upper + lower)}" fill="{line.color}" opacity="0.15"/>']


def _bars(line: Line, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    return [
        f'<path d="M{x(step):.1f},{y(value - band):.1f}V{y(value + band):.1f}" stroke="{line.color}"/>'
        for step, value, band in line.points
        if math.isfinite(band)
    ]


def _dot(line: Line, x: float, y: float, step: float, value: float) -> str:
    title = f"<title>step {step:g}: {value:.4g}</title>"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{line.color}">{title}</circle>'


def _legend(lines: Sequence[Line], first: float) -> list[str]:
    parts = []
    for i, line in enumerate(lines):
        left = first + 100 * i
        parts.append(f'<path d="M{left:.1f},12h18" stroke="{line.color}" stroke-width="3"/>')
        parts.append(f'<text x="{left + 24:.1f}" y="16">{html_text(line.label)}</text>')
    return parts
