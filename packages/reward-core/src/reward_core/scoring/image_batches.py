"""Batches of images for the scoring methods."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..inputs.decode_ahead import DecodedWhenRead, Pending, decoded
from ..inputs.image_file import ImageSource
from .batching import checked_batch_size
from .decoders import decoding, path_and_name, preparation
from .features import ImageFeatures
from .pipeline import Batch, BatchResult, Pipeline, ahead
from .steps import ImageEncoder, ScoringPath


@dataclass
class ImageBatch(Batch):
    """Consecutive images of a list.

    Attributes:
        start: index of the first image.
    """

    start: int = 0

    @property
    def indices(self) -> range:
        """Indices of the images in the list."""
        return range(self.start, self.start + len(self.keys))


def image_batches(
    model: ImageEncoder,
    path: ScoringPath,
    images: Sequence[ImageSource] | ImageFeatures,
    batch_size: int | None,
    compute: Callable[[Tensor, list[int]], Tensor],
    keep_errors: bool = False,
) -> Iterator[BatchResult[ImageBatch]]:
    """Encode images in batches and yield ``compute(features, indices)`` of each, in order.

    Args:
        model: model that encodes the images.
        path: its steps.
        images: images or their features.
        batch_size: images in a batch; halved when they do not fit in memory.
        compute: function of features (B, ...) on the model's device and the indices of their images, with
            results (B, ...).
        keep_errors: report unreadable images in the results instead of raising ImageError.

    Raises:
        ImageError: an image that cannot be read.
    """
    size = checked_batch_size(batch_size, model.device)

    def computed(features: Tensor, batch: ImageBatch, rows: list[int]) -> Tensor:
        return compute(features, [batch.start + row for row in rows])

    pipeline: Pipeline[ImageBatch] = Pipeline(model, path, computed, keep_errors=keep_errors)
    starts = range(0, len(images), size)
    if isinstance(images, ImageFeatures):
        parts = images.data.split(size)
        yield from pipeline.run(
            ImageBatch(range(len(part)), features=part, start=start) for start, part in zip(starts, parts)
        )
        return
    decode = partial(decoded, prepare=preparation(model))
    if len(images) == 1:  # without starting a thread
        yield from pipeline.run([ImageBatch(range(1), {0: DecodedWhenRead(decode, images[0])})])
        return
    with decoding(model, decode, path_and_name, len(images), size) as submit:

        def batches() -> Iterator[ImageBatch]:
            for start in starts:
                indices = range(start, min(start + size, len(images)))
                opening: dict[Hashable, Pending] = dict(zip(indices, submit([images[i] for i in indices])))
                yield ImageBatch(indices, opening, start=start)

        yield from pipeline.run(ahead(batches()))
