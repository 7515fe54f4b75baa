"""Scorers by name: the models of reward_core and the baselines of ShapesBench."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from reward_core import available_models, load
from reward_core.errors import ImageError
from reward_core.files.score_file import ScoredRow
from reward_core.inputs.image_file import ImageSource, image_name, open_image
from reward_core.models.blip.scorer import BlipScorer
from reward_core.models.judges.published import JUDGE_FAMILY
from reward_core.models.load_options import NO_JUDGE, JudgeOptions
from reward_core.models.registry import find_spec
from reward_core.network.config import BlipConfig
from reward_core.scoring.scorer_group import ScorerGroup
from reward_core.shapes import COLORS, PALETTE, oracle, parse


class ImageScorer:
    """A scorer from a function (prompt, image) -> score.

    An unreadable image gets a row with its error.
    """

    def __init__(self, function: Callable[[str, ImageSource], float]):
        self.function = function

    def score_rows(
        self, prompts: Sequence[str], images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> Iterator[ScoredRow]:
        """Yield one row per pair of prompt and image."""
        for prompt, image in zip(prompts, images):
            try:
                yield ScoredRow(prompt, image_name(image), float(self.function(prompt, image)))
            except ImageError as error:
                yield ScoredRow(prompt, image_name(image), None, error.reason)


def oracle_utility(prompt: str, image: ImageSource) -> float:
    """Return the oracle's utility in [0, 1]. Needs a prompt of ShapesBench."""
    return oracle(open_image(image).convert("RGB"), prompt).utility


def color_histogram(prompt: str, image: ImageSource) -> float:
    """Return the share of colored pixels whose color the prompt names, in [0, 1].

    Each pixel counts as the nearest of ShapesBench's 8 colors. Background pixels (light, little color) are
    left out.
    """
    pixels = np.asarray(open_image(image).convert("RGB"), np.float32).reshape(-1, 3)
    colored = pixels[pixels.max(1) - pixels.min(1) > 64]
    if not len(colored):
        return 0.0
    palette = np.array([PALETTE[name] for name in COLORS], np.float32)
    nearest = ((colored[:, None] - palette) ** 2).sum(2).argmin(1)
    named_colors = {COLORS.index(thing.color) for thing in parse(prompt).things}
    shares = np.bincount(nearest, minlength=len(COLORS)) / len(colored)
    return float(sum(shares[i] for i in named_colors))


def random_score(prompt: str, image: ImageSource) -> float:
    """Return a pseudorandom number in [0, 1), seeded by the prompt and the pixels."""
    pixels = open_image(image).convert("RGB").tobytes()
    return random.Random(hashlib.sha256(prompt.encode() + pixels).digest()).random()


_COSINE = "tiny-cosine"
BASELINES: dict[str, Callable[[str, ImageSource], float]] = {
    "oracle": oracle_utility,
    "colour-histogram": color_histogram,
    "random": random_score,
}


def may_be_judge(name: str) -> bool:
    """Return whether a scorer is a VLM judge, or becomes one with a server or a template."""
    if name in available_baselines():
        return False
    known = find_spec(name)
    return known is None or known[1].family == JUDGE_FAMILY


def load_scorer(
    name: str,
    device: str | None = None,
    precision: str = "exact",
    offline: bool = False,
    judge: JudgeOptions = NO_JUDGE,
):
    """Load a scorer by name.

    Args:
        name: a baseline, "tiny-cosine", or any name, folder or file that ``load`` accepts.
        device: device of the scorer; None: the default device.
        precision: precision of the scorer.
        offline: use local files only.
        judge: options of VLM judges; other scorers ignore them.

    Raises:
        InputError, HubError, ServerError, CheckpointError: raised by ``load``.
    """
    if name in BASELINES:
        return ImageScorer(BASELINES[name])
    if name == _COSINE:
        return _cosine_scorer(load("tiny", device=device))
    options = vars(judge) if may_be_judge(name) else {}
    return load(name, device=device, precision=precision, local_files_only=offline, **options)


class Bundle:
    """Scorers that are loaded and run together. Each image is decoded once.

    Args:
        scorers: scorers by name. Several must be scoring models.
    """

    def __init__(self, scorers: Mapping[str, Any]):
        self.scorers = dict(scorers)

    def sources(self) -> dict[str, str]:
        """Return scorer -> origin of its weights, without scorers that have no weights."""
        sources = {name: getattr(scorer, "source", None) for name, scorer in self.scorers.items()}
        return {name: str(source) for name, source in sources.items() if source is not None}

    def score_rows(
        self, prompts: Sequence[str], images: Sequence[ImageSource], batch_size: int | None
    ) -> Iterator[dict[str, ScoredRow]]:
        """Yield scorer -> row for each pair of prompt and image, in order."""
        if len(self.scorers) == 1:
            ((name, scorer),) = self.scorers.items()
            for row in scorer.score_rows(prompts, images, batch_size=batch_size):
                yield {name: row}
            return
        group = ScorerGroup(self.scorers)
        for row in group.score_rows(prompts, images, batch_size=batch_size):
            yield {name: row.of(name) for name in group.names}


SHARED = ("CLIP", "Aesthetic")


def bundles(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Group the scorers that share an encoder; all others stay alone."""
    shared = tuple(name for name in names if name in SHARED)
    if len(shared) < 2:
        return [(name,) for name in names]
    return [shared if name == shared[0] else (name,) for name in names if name not in shared[1:]]


def load_bundle(
    names: tuple[str, ...],
    device: str | None = None,
    precision: str = "exact",
    offline: bool = False,
    judge: JudgeOptions = NO_JUDGE,
) -> Bundle:
    """Load the scorers of one group of ``bundles``."""
    if len(names) == 1:
        return Bundle({names[0]: load_scorer(names[0], device, precision, offline, judge)})
    return Bundle(load(names, device=device, precision=precision, local_files_only=offline).scorers)


def available_scorers() -> list[str]:
    """Return the names of all scorers that load without a path."""
    return [*available_models(), *available_baselines()]


def available_baselines() -> list[str]:
    """Return the names of the scorers that only this package has."""
    return [_COSINE, *BASELINES]


def _cosine_scorer(reward) -> BlipScorer:
    """Return the BLIP model of a reward as a cosine scorer."""
    config = BlipConfig(**{f.name: getattr(reward.config, f.name) for f in fields(BlipConfig)})
    scorer = BlipScorer(config, reward.tokenizer).to(reward.device)
    scorer.blip, scorer.source = reward.blip, reward.source
    return scorer.eval().requires_grad_(False)
