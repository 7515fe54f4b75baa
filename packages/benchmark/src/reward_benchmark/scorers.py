"""Names -> scorers: the rewards and baselines of reward_core, and ShapesBench's own yardsticks."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields

import numpy as np

from reward_core import available_models, available_scores, load, load_score
from reward_core.baselines.blip import BlipScorer
from reward_core.config import BlipConfig
from reward_core.errors import ImageError
from reward_core.image_file import ImageSource, image_name, open_image
from reward_core.scorer import ScoredRow
from reward_core.shapes import COLOURS, PALETTE, oracle, parse


class PictureScorer:
    """A scorer that is a plain function of (prompt, picture); a bad picture becomes a row with its error."""

    def __init__(self, function: Callable[[str, ImageSource], float]):
        self.function = function

    def score_rows(
        self, prompts: Sequence[str], images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> Iterator[ScoredRow]:
        for prompt, image in zip(prompts, images):
            try:
                yield ScoredRow(prompt, image_name(image), float(self.function(prompt, image)))
            except ImageError as error:
                yield ScoredRow(prompt, image_name(image), None, error.reason)


def oracle_utility(prompt: str, image: ImageSource) -> float:
    """The truth in [0, 1], read off the pixels; knows prompts of ShapesBench only."""
    return oracle(open_image(image).convert("RGB"), prompt).utility


def colour_histogram(prompt: str, image: ImageSource) -> float:
    """Share of the picture's coloured pixels that have a colour the prompt names, in [0, 1].

    Pixels are counted by the nearest of the world's 8 colours, grounds (light, little colour) left out.
    """
    pixels = np.asarray(open_image(image).convert("RGB"), np.float32).reshape(-1, 3)
    strong = pixels[pixels.max(1) - pixels.min(1) > 64]
    if not len(strong):
        return 0.0
    palette = np.array([PALETTE[name] for name in COLOURS], np.float32)
    nearest = ((strong[:, None] - palette) ** 2).sum(2).argmin(1)
    wanted = {COLOURS.index(thing.colour) for thing in parse(prompt).things}
    shares = np.bincount(nearest, minlength=len(COLOURS)) / len(strong)
    return float(sum(shares[i] for i in wanted))


def random_score(prompt: str, image: ImageSource) -> float:
    """A number in [0, 1] that depends on nothing but the bytes of prompt and picture."""
    pixels = open_image(image).convert("RGB").tobytes()
    return random.Random(hashlib.sha256(prompt.encode() + pixels).digest()).random()


YARDSTICKS: dict[str, Callable[[str, ImageSource], float]] = {
    "oracle": oracle_utility,
    "colour-histogram": colour_histogram,
    "random": random_score,
}


def load_scorer(name: str, device: str | None = None, precision: str = "exact", offline: bool = False):
    """A scorer by name: a yardstick, "tiny-cosine", or whatever ``load_score`` or ``load`` takes.

    Raises:
        InputError, HubError, CheckpointError: as those.
    """
    if name in YARDSTICKS:
        return PictureScorer(YARDSTICKS[name])
    if name == "tiny-cosine":
        return _cosine_of(load("tiny", device=device))
    loader = load_score if name in available_scores() else load
    return loader(name, device=device, precision=precision, local_files_only=offline)


def available_scorers() -> list[str]:
    """Every name that needs no path."""
    return [*available_models(), *available_scores(), "tiny-cosine", *YARDSTICKS]


def _cosine_of(reward) -> BlipScorer:
    """A reward's BLIP with its two projections, as the BLIP baseline uses them."""
    config = BlipConfig(**{f.name: getattr(reward.config, f.name) for f in fields(BlipConfig)})
    scorer = BlipScorer(config, reward.tokenizer).to(reward.device)
    scorer.blip = reward.blip
    return scorer.eval().requires_grad_(False)
