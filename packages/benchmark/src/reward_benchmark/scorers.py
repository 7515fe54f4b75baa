"""Scorers by name: the models of reward_core and the baselines of ShapesBench."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields

import numpy as np

from reward_core import available_models, load
from reward_core.errors import ImageError
from reward_core.files.score_file import ScoredRow
from reward_core.hub.downloads import fetch
from reward_core.inputs.image_file import ImageSource, image_name, open_image
from reward_core.models.blip.scorer import BlipScorer
from reward_core.models.clip.published import AESTHETIC_HEAD, AESTHETIC_WIDTHS
from reward_core.models.load import with_aesthetic_head
from reward_core.network.config import BlipConfig
from reward_core.scoring.scoring_model import ScoringModel
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


BASELINES: dict[str, Callable[[str, ImageSource], float]] = {
    "oracle": oracle_utility,
    "colour-histogram": color_histogram,
    "random": random_score,
}


def load_scorer(name: str, device: str | None = None, precision: str = "exact", offline: bool = False):
    """Load a scorer by name.

    Args:
        name: a baseline, "tiny-cosine", or any name, folder or file that ``load`` accepts.
        device: device of the scorer; None: the default device.
        precision: precision of the scorer.
        offline: use local files only.

    Raises:
        InputError, HubError, CheckpointError: raised by ``load``.
    """
    if name in BASELINES:
        return ImageScorer(BASELINES[name])
    if name == "tiny-cosine":
        return _cosine_scorer(load("tiny", device=device))
    return load(name, device=device, precision=precision, local_files_only=offline)


class SharedTower:
    """CLIP and Aesthetic with a shared image encoder."""

    def __init__(self, scorers: dict[str, ScoringModel]):
        self.scorers = scorers

    def sources(self) -> dict[str, str]:
        """Return scorer -> origin of its weights."""
        return _sources(self.scorers)

    def score_all(
        self, prompts: Sequence[str], images: Sequence[ImageSource], batch_size: int | None
    ) -> dict[str, list[ScoredRow]]:
        """Return scorer -> one row per image."""
        first = next(iter(self.scorers.values()))
        features, errors = first.encode_readable_images(images, batch_size=batch_size)
        readable = [i for i in range(len(images)) if i not in errors]
        readable_prompts = [prompts[i] for i in readable]
        rows = {}
        for name, scorer in self.scorers.items():
            scores: list[float] = []
            if readable:
                scores = scorer.score_pairs(readable_prompts, features, batch_size=batch_size).tolist()
            by_index = dict(zip(readable, scores))
            rows[name] = [
                ScoredRow(prompt, image_name(image), by_index.get(i), errors.get(i))
                for i, (prompt, image) in enumerate(zip(prompts, images))
            ]
        return rows


class SingleScorer:
    """One scorer with the interface of ``SharedTower``."""

    def __init__(self, name: str, scorer):
        self.name, self.scorer = name, scorer

    def sources(self) -> dict[str, str]:
        """Return scorer -> origin of its weights, or nothing for a scorer without weights."""
        return _sources({self.name: self.scorer})

    def score_all(
        self, prompts: Sequence[str], images: Sequence[ImageSource], batch_size: int | None
    ) -> dict[str, list[ScoredRow]]:
        """Return scorer -> one row per image."""
        return {self.name: list(self.scorer.score_rows(prompts, images, batch_size=batch_size))}


SHARED = ("CLIP", "Aesthetic")


def bundles(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Group the scorers that share an encoder; all others stay alone."""
    shared = tuple(name for name in names if name in SHARED)
    if len(shared) < 2:
        return [(name,) for name in names]
    return [shared if name == shared[0] else (name,) for name in names if name not in shared[1:]]


def load_bundle(
    names: tuple[str, ...], device: str | None = None, precision: str = "exact", offline: bool = False
) -> SharedTower | SingleScorer:
    """Load the scorers of one group of ``bundles``."""
    if len(names) == 1:
        return SingleScorer(names[0], load_scorer(names[0], device, precision, offline))
    clip = load_scorer("CLIP", device, precision, offline)
    head = fetch(AESTHETIC_HEAD, local_files_only=offline)
    scorers = {"CLIP": clip, "Aesthetic": with_aesthetic_head(clip, head, AESTHETIC_WIDTHS)}
    return SharedTower({name: scorers[name] for name in names})


def available_scorers() -> list[str]:
    """Return the names of all scorers that load without a path."""
    return [*available_models(), "tiny-cosine", *BASELINES]


def _sources(scorers: Mapping[str, object]) -> dict[str, str]:
    sources = {name: getattr(scorer, "source", None) for name, scorer in scorers.items()}
    return {name: str(source) for name, source in sources.items() if source is not None}


def _cosine_scorer(reward) -> BlipScorer:
    """Return the BLIP model of a reward as a cosine scorer."""
    config = BlipConfig(**{f.name: getattr(reward.config, f.name) for f in fields(BlipConfig)})
    scorer = BlipScorer(config, reward.tokenizer).to(reward.device)
    scorer.blip, scorer.source = reward.blip, reward.source
    return scorer.eval().requires_grad_(False)
