"""report.html of a run: rewards, curves and images before and after, in one file without a network."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from statistics import fmean

import yaml
from PIL import Image

from reward_core.files.atomic_write import write_text
from reward_core.printing.escapes import printable

from ..config import TrainConfig
from ..training_state import ReflState
from .curve_svg import panel_svg
from .curves import Panel, Row, panels_of
from .samples import Samples, read_samples

PAGE_FILE = "report.html"
REFRESH_S = 30.0  # between two versions of the page, except after validations
_THUMBNAIL = 448  # pixels of the longer side
_MOST_IMAGES = 24  # pairs of images on the page
_RATE_ROWS = 20  # latest steps, from which the time left is estimated


@dataclass(frozen=True)
class RewardChange:
    """A row of the table: a reward before training and now, as text with 95% intervals."""

    name: str
    role: str
    before: str
    now: str
    change: str


@dataclass(frozen=True)
class ImagePair:
    """An image of the base model and the current one of the same prompt and seed; data URLs."""

    prompt: str
    before: str
    now: str
    caption: str


@dataclass(frozen=True)
class Chart:
    """A titled SVG."""

    title: str
    svg: str


class RunPage:
    """The page of a run, written again while it trains.

    Args:
        run: folder of the run.
        config: settings of the run.
    """

    def __init__(self, run: Path, config: TrainConfig):
        self.run, self.config = run, config
        self._written = -math.inf

    def is_due(self) -> bool:
        """Return whether the page is older than 30 seconds."""
        return time.monotonic() - self._written >= REFRESH_S

    def write(self, rows: Sequence[Row], state: ReflState, finished: bool = False) -> list[Panel]:
        """Write the page; return the panels of its curves.

        Args:
            rows: the metrics of the run, one dict per line of metrics.jsonl.
            state: state of the run.
            finished: whether the run has ended, so that the page need not reload itself.
        """
        steps = [row["step"] for row in rows if any(name.startswith("validation/") for name in row)]
        samples = read_samples(self.run, steps)
        now = _shown(samples, state, finished and self.config.validation.keep_best)
        panels = panels_of(rows, samples)
        page = _template().render(
            name=printable(self.run.resolve().name),
            model=printable(self.config.model.id),
            strategy=self.config.strategy.name,
            step=state.step,
            steps=self.config.run.steps,
            stopped=printable(state.stopped or ""),
            finished=finished,
            updated=int(time.time()),
            left=_time_left(rows, self.config, state.step),
            changes=[] if now is None else self._changes(samples[0], now, rows),
            shown_step=None if now is None else now.step,
            pairs=[] if now is None else self._pairs(samples[0], now),
            charts=[Chart(printable(panel.title), panel_svg(panel)) for panel in panels],
            settings=yaml.safe_dump(self.config.to_dict(), sort_keys=False, allow_unicode=True),
        )
        write_text(self.run / PAGE_FILE, page)
        self._written = time.monotonic()
        return panels

    def _changes(self, base: Samples, now: Samples, rows: Sequence[Row]) -> list[RewardChange]:
        weights = {reward.name: reward.weight for reward in self.config.rewards}
        changes = []
        for name in now.rewards:
            role = f"trained, weight {weights[name]:g}" if weights.get(name) else "held out"
            changes.append(_change(name, role, base.interval(name), now.interval(name)))
        diversity = {row["step"]: row.get("validation/diversity", math.nan) for row in rows}
        values = [diversity.get(samples.step, math.nan) for samples in (base, now)]
        if all(map(math.isfinite, values)):
            changes.append(_change("diversity", "", (values[0], math.nan), (values[1], math.nan)))
        return changes

    def _pairs(self, base: Samples, now: Samples) -> list[ImagePair]:
        per_prompt = max(1, min(base.seeds, _MOST_IMAGES // len(base.prompts)))
        shown = [(p, s) for p in range(len(base.prompts)) for s in range(per_prompt)][:_MOST_IMAGES]
        pairs = []
        for prompt, seed in shown:
            index = prompt * base.seeds + seed
            captions = [
                f"{printable(name)} {base.rewards[name][index]:.2f} → {values[index]:.2f}"
                for name, values in now.rewards.items()
            ]
            before, after = (_data_url(s.image_file(self.run, prompt, seed)) for s in (base, now))
            if before and after:
                pairs.append(ImagePair(printable(base.prompts[prompt]), before, after, ", ".join(captions)))
        return pairs


def _shown(samples: Sequence[Samples], state: ReflState, best: bool) -> Samples | None:
    """Return the latest validation, or the one whose weights were saved."""
    if best and state.best is not None:
        return next((s for s in samples if s.step == state.best_step), samples[-1] if samples else None)
    return samples[-1] if samples else None


def _change(name: str, role: str, before: tuple[float, float], now: tuple[float, float]) -> RewardChange:
    """Return a row of the table from means and half widths of intervals before and now."""
    texts = _with_interval(before), _with_interval(now)
    return RewardChange(printable(name), role, *texts, f"{now[0] - before[0]:+z.3f}")


def _with_interval(mean_and_width: tuple[float, float]) -> str:
    mean, width = mean_and_width
    return f"{mean:.3f}" + (f" ± {width:.3f}" if math.isfinite(width) else "")


def _time_left(rows: Sequence[Row], config: TrainConfig, step: int) -> str:
    """Return the time that the remaining steps need at the pace of the latest ones; "" if unknown."""
    run = config.run
    rates = [row["images_per_s"] for row in rows if "images_per_s" in row][-_RATE_ROWS:]
    if not rates or not fmean(rates) > 0 or step >= run.steps:
        return ""
    minutes = (run.steps - step) * run.batch_size * run.accumulation / fmean(rates) / 60
    return f"{minutes / 60:.1f} hours" if minutes >= 90 else f"{math.ceil(minutes)} min"


@lru_cache(maxsize=4 * _MOST_IMAGES)
def _data_url(path: Path) -> str:
    """Return an image as the data URL of a JPEG, or "" if it cannot be read."""
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except OSError:
        return ""
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = BytesIO()
    small.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


@lru_cache(maxsize=1)
def _template():
    from jinja2 import Environment, PackageLoader

    return Environment(loader=PackageLoader("refl.records"), autoescape=True).get_template("run.html")
