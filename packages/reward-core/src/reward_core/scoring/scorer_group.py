"""Several scorers that read the same images: each image is decoded once.

Shapes: B images in a batch, N pairs or images, P prompts, K scorers of a lane.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..files.score_file import GroupRow
from ..inputs.decode_ahead import decoded
from ..inputs.image_file import ImageSource, image_name
from ..inputs.tokenizer import check_prompts
from ..runs.caller_warning import quoted
from .batching import checked_batch_size
from .decoders import decoding, path_and_name
from .image_batches import ImageBatch
from .pipeline import BatchResult, Pipeline, ahead
from .rewards import checked_finite, ranking
from .scoring_methods import as_list, check_counts, check_images
from .scoring_model import ScoringModel
from .shared_decoding import Preparations, run_together

#: Function from features (B, ...) and indices of B images to rewards, (B,) or (B, P).
Compute = Callable[[Tensor, list[int]], Tensor]


@dataclass(frozen=True)
class Lane:
    """Scorers that read the same image features, such as CLIP and Aesthetic.

    Attributes:
        names: names of the scorers.
        encoder: the scorer that encodes the images.
    """

    names: tuple[str, ...]
    encoder: ScoringModel


class ScorerGroup:
    """Several scorers with the scoring methods of one; every result is a dict by name.

    Each image is decoded once for all scorers, and encoded once for scorers with the same image encoder.

    Args:
        scorers: scorers by name.

    Attributes:
        scorers: the same.
        names: their names.

    Raises:
        InputError: no scorer.
    """

    def __init__(self, scorers: Mapping[str, ScoringModel]) -> None:
        if not scorers:
            raise InputError("Cannot use a group of scorers: no scorer given.")
        self.scorers = dict(scorers)
        self.names = list(self.scorers)

    def __getitem__(self, name: str) -> ScoringModel:
        return self.scorers[name]

    def score(
        self, prompt: str, image: ImageSource | Sequence[ImageSource], *, batch_size: int | None = None
    ) -> dict[str, float | list[float]]:
        """Return scorer -> the reward of one image (a float) or of each image in a list (a list)."""
        source: Any = as_list(image)
        several = isinstance(source, (list, tuple))
        rewards = self.score_matrix([prompt], source if several else [source], batch_size=batch_size)
        return {name: row[0].tolist() if several else row.item() for name, row in rewards.items()}

    def inference_rank(
        self, prompt: str, images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> dict[str, tuple[list[int], list[float]]]:
        """Return scorer -> the rank (1 is best) and the reward of each image, in input order."""
        rewards = self.score_matrix([prompt], images, batch_size=batch_size)
        return {name: (ranking(row[0].tolist()), row[0].tolist()) for name, row in rewards.items()}

    def score_pairs(
        self, prompts: Sequence[str], images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> dict[str, Tensor]:
        """Return scorer -> the rewards (N,) of prompt i with image i, float32 on the CPU.

        Args:
            prompts: N strings.
            images: N paths or PIL images.
            batch_size: pairs in a batch (default: 8 on a CPU, 64 on a GPU); halved when memory runs out.

        Raises:
            InputError: no input, or unequal numbers of prompts and images.
            ImageError: an image that cannot be read.
            NonFiniteRewardError: a reward that is NaN or infinite.
        """
        prompts, images = _checked(prompts, images)
        check_counts(len(prompts), len(images))
        compute = {name: scorer.pair_scorer(prompts) for name, scorer in self.scorers.items()}
        rewards = self._joined(self._batches(images, batch_size, compute))
        return {
            name: checked_finite(column, _pair_names(name, prompts, images))
            for name, column in rewards.items()
        }

    def score_matrix(
        self, prompts: Sequence[str], images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> dict[str, Tensor]:
        """Return scorer -> the rewards (P, N) of every prompt with every image, float32 on the CPU.

        Args and Raises are as in ``score_pairs``, with P prompts and N images.
        """
        prompts, images = _checked(prompts, images)
        compute = {name: scorer.matrix_scorer(prompts) for name, scorer in self.scorers.items()}
        columns = self._joined(self._batches(images, batch_size, compute))
        every_prompt = [prompt for prompt in prompts for _ in images]
        every_image = [image for _ in prompts for image in images]
        return {
            name: checked_finite(column.T.contiguous(), _pair_names(name, every_prompt, every_image))
            for name, column in columns.items()
        }

    def score_rows(
        self, prompts: Sequence[str], images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> Iterator[GroupRow]:
        """Yield a row for each pair, in order, with the score of each scorer.

        The row of an image that cannot be read holds the error instead of scores.
        """
        prompts, images = as_list(prompts), as_list(images)
        check_prompts(prompts)
        check_images(images)
        check_counts(len(prompts), len(images))
        compute = {name: scorer.pair_scorer(prompts) for name, scorer in self.scorers.items()}
        for batch, values in self._batches(images, batch_size, compute, keep_errors=True):
            scores: dict[int, dict[str, float]] = {}
            indices = [batch.batch.indices[row] for row in batch.rows]
            of_batch = [prompts[i] for i in indices], [images[i] for i in indices]
            for name, column in values.items():
                checked_finite(column, _pair_names(name, *of_batch))
                for i, score in zip(indices, column.tolist()):
                    scores.setdefault(i, {})[name] = score
            for row, i in enumerate(batch.batch.indices):
                error = batch.errors.get(row)
                reason = None if error is None else error.reason
                yield GroupRow(prompts[i], image_name(images[i]), scores.get(i, {}), reason)

    def lanes(self) -> list[Lane]:
        """Return the scorers in groups with the same image encoder and the same weights of it."""
        by_key: dict[Hashable, list[str]] = {}
        for name, scorer in self.scorers.items():
            by_key.setdefault(scorer.encoder_key(), []).append(name)
        return [Lane(tuple(names), self.scorers[names[0]]) for names in by_key.values()]

    def _batches(
        self,
        images: Sequence[ImageSource],
        batch_size: int | None,
        compute: Mapping[str, Compute],
        keep_errors: bool = False,
    ) -> Iterator[tuple[BatchResult[ImageBatch], dict[str, Tensor]]]:
        """Yield each batch with the results (B, ...) of ``compute`` by name, of its readable images."""
        lanes = self.lanes()
        preparations = Preparations([lane.encoder for lane in lanes])
        prepare, *others = preparations.functions
        size = min(checked_batch_size(batch_size, lane.encoder.device) for lane in lanes)
        pipelines: list[Pipeline[ImageBatch]] = [
            Pipeline(lane.encoder, lane.encoder.path(), _stacked(lane, compute), keep_errors=keep_errors)
            for lane in lanes
        ]
        with decoding(
            lanes[0].encoder,
            partial(decoded, prepare=prepare, others=others),
            path_and_name,
            len(images),
            size,
            preparations=len(preparations.functions),
        ) as submit:

            def batches() -> Iterator[list[ImageBatch]]:
                for start in range(0, len(images), size):
                    indices = range(start, min(start + size, len(images)))
                    pending = submit([images[i] for i in indices])
                    views = zip(*map(preparations.views, pending))
                    yield [ImageBatch(indices, dict(zip(indices, lane)), start=start) for lane in views]

            for results in run_together(pipelines, ahead(batches())):
                yield results[0], by_name(lanes, [result.values for result in results])

    def _joined(
        self, batches: Iterator[tuple[BatchResult[ImageBatch], dict[str, Tensor]]]
    ) -> dict[str, Tensor]:
        parts = [values for _, values in batches]
        return {name: torch.cat([part[name] for part in parts]) for name in self.names}


def by_name(lanes: Sequence[Lane], values: Sequence[Tensor | None]) -> dict[str, Tensor]:
    """Return scorer -> its results (B, ...) from the results (B, ..., K) of each lane; empty without rows."""
    found = zip(lanes, values, strict=True)
    return {
        name: value[..., k] for lane, value in found if value is not None for k, name in enumerate(lane.names)
    }


def _stacked(lane: Lane, compute: Mapping[str, Compute]) -> Callable[[Tensor, ImageBatch, list[int]], Tensor]:
    """Return the function of a pipeline with results (B, ..., K) of the scorers of a lane."""

    def computed(features: Tensor, batch: ImageBatch, rows: list[int]) -> Tensor:
        indices = [batch.start + row for row in rows]
        return torch.stack([compute[name](features, indices) for name in lane.names], dim=-1)

    return computed


def _checked(
    prompts: Sequence[str], images: Sequence[ImageSource]
) -> tuple[Sequence[str], Sequence[ImageSource]]:
    prompts, images = as_list(prompts), as_list(images)
    check_prompts(prompts)
    check_images(images)
    if not len(images):
        raise InputError("Cannot use the images: no images given.")
    return prompts, images


def _pair_names(name: str, prompts: Sequence[str], images: Sequence[ImageSource]) -> Callable[[int], str]:
    """Return a function from the index of a pair to its description in errors."""
    return lambda i: f"{image_name(images[i])} with prompt {quoted(prompts[i])} ({name})"
