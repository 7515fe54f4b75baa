"""Several scorers that read the same images: each image is decoded once.

Shapes: B images in a batch, N pairs or images, P prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
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
from .lanes import Compute, Lane, by_name, refresh_others, stacked
from .other_scorers import merged, rows_of
from .pipeline import BatchResult, Pipeline, ahead
from .rewards import checked_finite, ranking
from .scorer import Scorer
from .scoring_methods import as_list, check_counts, check_images
from .scoring_model import ScoringModel
from .shared_decoding import Preparations, run_together


class ScorerGroup:
    """Several scorers with the scoring methods of one; every result is a dict by name.

    Each image is decoded once for all scoring models, and encoded once for those with the same image encoder.
    Scorers that are not scoring models, such as VLM judges, read the images themselves.

    Args:
        scorers: scorers by name.

    Attributes:
        scorers: the same.
        names: their names.
        models: those that are scoring models.
        others: the others.

    Raises:
        InputError: no scorer.
    """

    def __init__(self, scorers: Mapping[str, Scorer]) -> None:
        if not scorers:
            raise InputError("Cannot use a group of scorers: no scorer given.")
        self.scorers = dict(scorers)
        self.names = list(self.scorers)
        self.models = {name: s for name, s in self.scorers.items() if isinstance(s, ScoringModel)}
        self.others = {name: s for name, s in self.scorers.items() if name not in self.models}

    def __getitem__(self, name: str) -> Any:
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
        compute = {name: model.pair_scorer(prompts) for name, model in self.models.items()}
        rewards = _joined(self._batches(images, batch_size, compute))
        rewards |= {name: scorer.score_pairs(prompts, images) for name, scorer in self.others.items()}
        return {
            name: checked_finite(rewards[name], _pair_names(name, prompts, images)) for name in self.names
        }

    def score_matrix(
        self, prompts: Sequence[str], images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> dict[str, Tensor]:
        """Return scorer -> the rewards (P, N) of every prompt with every image, float32 on the CPU.

        Args and Raises are as in ``score_pairs``, with P prompts and N images.
        """
        prompts, images = _checked(prompts, images)
        compute = {name: model.matrix_scorer(prompts) for name, model in self.models.items()}
        columns = _joined(self._batches(images, batch_size, compute))
        matrices = {name: column.T.contiguous() for name, column in columns.items()}  # (P, N)
        matrices |= {name: scorer.score_matrix(prompts, images) for name, scorer in self.others.items()}
        every_prompt = [prompt for prompt in prompts for _ in images]
        every_image = [image for _ in prompts for image in images]
        return {
            name: checked_finite(matrices[name], _pair_names(name, every_prompt, every_image))
            for name in self.names
        }

    def score_rows(
        self, prompts: Sequence[str], images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> Iterator[GroupRow]:
        """Yield a row for each pair, in order, with the score of each scorer.

        The row of an image that cannot be read holds the error instead of scores. If only some scorers have
        an error, as a VLM judge may, the others' scores are there too, and the error names those scorers.
        """
        prompts, images = as_list(prompts), as_list(images)
        check_prompts(prompts)
        check_images(images)
        check_counts(len(prompts), len(images))
        of_others = [rows_of(name, scorer, prompts, images) for name, scorer in self.others.items()]
        of_models = self._model_rows(prompts, images, batch_size) if self.models else ({} for _ in images)
        for parts, *others in zip(of_models, *of_others, strict=True):
            yield merged({**parts, **dict(zip(self.others, others))})

    def _model_rows(
        self, prompts: Sequence[str], images: Sequence[ImageSource], batch_size: int | None
    ) -> Iterator[dict[str, GroupRow]]:
        """Yield a row by name of the scoring model for each pair."""
        compute = {name: model.pair_scorer(prompts) for name, model in self.models.items()}
        for results in self._batches(images, batch_size, compute, keep_errors=True):
            columns = {name: _rows(name, result, prompts, images) for name, result in results.items()}
            for parts in zip(*columns.values(), strict=True):
                yield dict(zip(columns, parts))

    def lanes(self) -> list[Lane]:
        """Return the scoring models in groups with the same image encoder and the same weights of it."""
        by_key: dict[Hashable, list[str]] = {}
        for name, model in self.models.items():
            by_key.setdefault(model.encoder_key(), []).append(name)
        return [Lane(tuple(names), self.models[names[0]]) for names in by_key.values()]

    def _batches(
        self,
        images: Sequence[ImageSource],
        batch_size: int | None,
        compute: Mapping[str, Compute],
        keep_errors: bool = False,
    ) -> Iterator[dict[str, BatchResult[ImageBatch]]]:
        """Yield the results (B, ...) of ``compute`` by name for each batch, of the images that it reads."""
        if not self.models:
            return
        lanes = self.lanes()
        preparations = Preparations([lane.encoder for lane in lanes])
        prepare, *others = preparations.functions
        size = min(checked_batch_size(batch_size, lane.encoder.device) for lane in lanes)
        paths = {name: model.path() for name, model in self.models.items()}
        refresh_others(lanes, paths)
        pipelines: list[Pipeline[ImageBatch]] = [
            Pipeline(lane.encoder, paths[lane.names[0]], stacked(lane, compute), keep_errors=keep_errors)
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
                yield by_name(lanes, results)


def _joined(batches: Iterator[dict[str, BatchResult[ImageBatch]]]) -> dict[str, Tensor]:
    """Return scorer -> the results (N, ...) of all batches."""
    parts: dict[str, list[Tensor]] = {}
    for results in batches:
        for name, result in results.items():
            if result.values is not None:
                parts.setdefault(name, []).append(result.values)
    return {name: torch.cat(values) for name, values in parts.items()}


def _rows(
    name: str, result: BatchResult[ImageBatch], prompts: Sequence[str], images: Sequence[ImageSource]
) -> Iterator[GroupRow]:
    """Yield the row of one scorer for each image of a batch.

    Raises:
        NonFiniteRewardError: a reward that is NaN or infinite.
    """
    scores: dict[int, float] = {}
    if result.values is not None:
        indices = [result.batch.indices[row] for row in result.rows]
        checked_finite(
            result.values, _pair_names(name, [prompts[i] for i in indices], [images[i] for i in indices])
        )
        scores = dict(zip(indices, result.values.tolist()))
    for row, i in enumerate(result.batch.indices):
        error = result.errors.get(row)
        found = {name: scores[i]} if i in scores else {}
        yield GroupRow(prompts[i], image_name(images[i]), found, None if error is None else error.reason)


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
