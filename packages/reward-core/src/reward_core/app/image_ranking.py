"""Rank uploaded images for prompts with one or more models."""

from __future__ import annotations

import base64
import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from PIL import Image

from ..errors import ImageError
from ..files.limits import MAX_PIXELS_IN_FLIGHT
from ..inputs.clipped_levels import ADVICE, clipped_levels
from ..inputs.image_file import open_image, pixels_of, rgb_guard
from ..models.visionreward.explanation import Explanation
from ..network.score_quantiles import ScoreQuantiles
from ..printing.escapes import spreadsheet_cell
from ..scoring.rewards import ranking
from ..scoring.scorer_group import ScorerGroup
from ..scoring.scoring_model import ScoringModel
from .explanations import explain_images

CHUNK = 16  # images that are open at once
LARGE = 2**24  # pixels
THUMBNAIL = 384  # pixels of the longer side
COLUMNS = ("prompt", "picture", "model", "place", "score", "percentile", "error")


@dataclass(frozen=True)
class ShownImage:
    """An image that could be read: its name, its size and a thumbnail as a data: URL."""

    name: str
    width: int
    height: int
    thumbnail: str


@dataclass(frozen=True)
class ModelRanking:
    """The scores of one model.

    Attributes:
        model: displayed name of the model.
        scores: scores[p][n] of prompt p and image n.
        quantiles: reference quantiles, if known.
        explanations: explanations[p][n] of prompt p and image n; empty for a model without a checklist.
    """

    model: str
    scores: list[list[float]]
    quantiles: ScoreQuantiles | None = None
    explanations: list[list[Explanation]] = field(default_factory=list)

    def ranks(self, prompt: int) -> list[int]:
        """Return the rank of each image for a prompt; 1 is best."""
        return ranking(self.scores[prompt])

    def percentile(self, score: float) -> float | None:
        """Return the percentile of a score, or None without reference quantiles."""
        return None if self.quantiles is None else self.quantiles.percentile(score)


@dataclass(frozen=True)
class RankingResult:
    """Everything that the page shows.

    Attributes:
        prompts: the prompts.
        images: the images that could be read.
        rankings: the scores of each model.
        failed: (name, reason) of each file that could not be read.
        notes: messages for the visitor, such as words that a model did not read.
    """

    prompts: list[str]
    images: list[ShownImage]
    rankings: list[ModelRanking]
    failed: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def rank_images(
    models: Mapping[str, ScoringModel],
    prompts: Sequence[str],
    files: Sequence[str],
    *,
    megabytes: float = float("inf"),
    batch_size: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RankingResult:
    """Score every image for every prompt with every model; files that cannot be read are reported.

    Args:
        models: one or more models by displayed name.
        prompts: one or more prompts.
        files: paths of images.
        megabytes: maximum file size, in units of 2^20 bytes; larger files are not opened.
        batch_size: images per batch; None for the scorer's default.
        progress: called with (files done, all files).
    """
    images: list[ShownImage] = []
    failed: list[tuple[str, str]] = []
    clipped: list[str] = []
    columns: dict[str, list[torch.Tensor]] = {name: [] for name in models}
    explained = {name: model for name, model in models.items() if hasattr(model, "explain")}
    explanations: dict[str, list[list[Explanation]]] = {name: [[] for _ in prompts] for name in explained}
    others = {name: model for name, model in models.items() if name not in explained}
    group = ScorerGroup(others) if others else None
    progress(0, len(files))
    names = unique_names([os.path.basename(file) for file in files])
    chunk = max(CHUNK, batch_size or 0)
    opened: list[Image.Image] = []
    pixels = 0  # of the images that are open

    def score_opened() -> None:
        if not opened:
            return
        scores = {} if group is None else group.score_matrix(list(prompts), opened, batch_size=batch_size)
        for model_name, model in explained.items():
            parts = explain_images(model, prompts, opened, batch_size)
            for of_prompt, part in zip(explanations[model_name], parts):
                of_prompt.extend(part)
            scores[model_name] = torch.tensor([[item.score for item in part] for part in parts])
        for model_name, matrix in scores.items():
            columns[model_name].append(matrix)  # (P, B)
        opened.clear()

    for i, (name, file) in enumerate(zip(names, files)):
        try:
            file_pixels = _checked_pixels(file, megabytes)
            if len(opened) == chunk or pixels + file_pixels > MAX_PIXELS_IN_FLIGHT.value:
                score_opened()
                pixels = 0
                progress(i, len(files))
            image = open_image(file)
            shown = ShownImage(name, image.width, image.height, thumbnail(image))
        except ImageError as error:
            failed.append((name, error.reason))
            continue
        if lost := clipped_levels(image):
            clipped.append(f"{name}: {lost}. {ADVICE}.")
        images.append(shown)
        opened.append(image)
        pixels += file_pixels
        del image
    score_opened()
    progress(len(files), len(files))
    rankings = [
        ModelRanking(
            name,
            torch.cat(parts, dim=1).tolist(),
            models[name].score_quantiles,
            explanations.get(name, []),
        )
        for name, parts in columns.items()
        if parts
    ]
    return RankingResult(list(prompts), images, rankings, failed, [*_unread(models, prompts), *clipped])


def thumbnail(image: Image.Image) -> str:
    """Return a copy of at most 384 px as a data: URL; transparent parts become white.

    Raises:
        ImageError: Pillow cannot convert the image to RGB (models could not either).
    """
    with rgb_guard(""):
        if image.width * image.height > LARGE:  # avoid a copy at full size
            scale = 4 * THUMBNAIL / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            small = image.resize(size, Image.Resampling.NEAREST)
        else:
            small = image.copy()
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        if small.mode in ("RGBA", "LA", "PA") or "transparency" in small.info:
            small = small.convert("RGBA")
            small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small)
        small = small.convert("RGB")
    form = "PNG" if max(image.size) <= 128 else "JPEG"  # small images are displayed pixelated
    data = io.BytesIO()
    small.save(data, form, quality=85)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def agreement(first: ModelRanking, second: ModelRanking, prompt: int) -> tuple[int, int]:
    """Return (pairs of images that both models order alike, pairs that neither model ties) for a prompt."""
    a, b = first.scores[prompt], second.scores[prompt]
    signs = [(a[i] - a[j]) * (b[i] - b[j]) for i, j in combinations(range(len(a)), 2)]
    return sum(sign > 0 for sign in signs), sum(sign != 0 for sign in signs)


def result_csv(result: RankingResult) -> str:
    """Return a CSV with a row per prompt, model and image, best first; failed files are at the end.

    Texts that a spreadsheet would run as formulas are prefixed with an apostrophe; numbers stay numbers.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="")
    writer.writeheader()
    for p, prompt in enumerate(result.prompts):
        for model_ranking in result.rankings:
            ranks = model_ranking.ranks(p)
            for n in sorted(range(len(ranks)), key=ranks.__getitem__):
                score = model_ranking.scores[p][n]
                percentile = model_ranking.percentile(score)
                row: dict[str, Any] = {
                    "prompt": spreadsheet_cell(prompt),
                    "picture": spreadsheet_cell(result.images[n].name),
                    "model": spreadsheet_cell(model_ranking.model),
                }
                row |= {"place": ranks[n], "score": f"{score:.6f}"}
                writer.writerow(row | ({} if percentile is None else {"percentile": f"{percentile:.1f}"}))
    for name, reason in result.failed:
        writer.writerow({"picture": spreadsheet_cell(name), "error": spreadsheet_cell(reason)})
    return text.getvalue()


def unique_names(names: Sequence[str]) -> list[str]:
    """Return the names with " (2)", " (3)", ... appended to repeated ones."""
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result


def _checked_pixels(file: str, megabytes: float) -> int:
    """Return the number of pixels of an image. Raise ImageError, also if the file is too large."""
    size = os.path.getsize(file) / 2**20 if os.path.exists(file) else 0
    if size > megabytes:
        raise ImageError(file, f"too large: {size:.1f} MB, the limit is {megabytes:g} MB")
    return pixels_of(file)


def _unread(models: Mapping[str, ScoringModel], prompts: Sequence[str]) -> list[str]:
    """Return a note for each model and prompt that is truncated."""
    return [
        f"{name} reads at most {model.tokenizer.max_length} tokens of a prompt and ignored “{words}”"
        for name, model in models.items()
        if hasattr(model, "tokenizer")  # VLM judges read prompts of any length
        for prompt in prompts
        if (words := model.tokenizer.dropped_words(prompt))
    ]
