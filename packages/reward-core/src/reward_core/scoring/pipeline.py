"""The scoring pipeline: decode, upload, encode, score and fetch, in batches.

All scoring methods and bulk runs use it. Threads decode images a few batches ahead. Work for a GPU is only
launched; the result of a batch is read while the GPU computes later batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ..errors import ClippedLevelsWarning, ImageError
from ..inputs.decode_ahead import DecodedImage, Pending
from ..runs.caller_warning import warn_caller
from .batching import in_batches
from .cpu import sensible_threads
from .feature_cache import FeatureCache
from .steps import ImageEncoder, ScoringPath
from .transfers import transfers_for

BATCHES_AHEAD = 3  # batches whose images are decoded while the model computes

S = TypeVar("S")
T = TypeVar("T")
Key = Hashable


@dataclass
class Batch:
    """Rows that are computed together.

    Attributes:
        keys: key of each row's image; None for a row that is not computed.
        opening: images to encode, by key, that are being decoded. The other keys are in the cache.
        features: features of the rows' images on the CPU, instead of images.
        encode_only: only put the images into the cache.
        fresh: forget the features of earlier batches first.
    """

    keys: Sequence[Key | None]
    opening: Mapping[Key, Pending] = field(default_factory=dict)
    features: Tensor | None = None
    encode_only: bool = False
    fresh: bool = False


B = TypeVar("B", bound=Batch)


@dataclass
class BatchResult(Generic[B]):
    """The result of a batch.

    Attributes:
        batch: the batch.
        rows: indices within the batch of the rows that were computed.
        values: results (len(rows), ...) on the CPU; None without rows.
        errors: error of a row whose image cannot be read, by index within the batch.
        encoded: number of images that were encoded since the previous result.
    """

    batch: B
    rows: list[int]
    values: Tensor | None
    errors: dict[int, ImageError]
    encoded: int


class Pipeline(Generic[B]):
    """The steps from decoded images to results on the CPU.

    Args:
        model: model that encodes the images.
        path: its steps, eager or compiled.
        compute: function of image features (R, ...) on the device, the batch, and the indices within the
            batch of these R rows. Returns (R, ...) on the device.
        cache: number of images whose features are kept for later batches.
        keep_errors: report an image that cannot be read in the results instead of raising ImageError.
        warn_once: warn only about the first image with clipped levels.
    """

    def __init__(
        self,
        model: ImageEncoder,
        path: ScoringPath,
        compute: Callable[[Tensor, B, list[int]], Tensor],
        *,
        cache: int = 0,
        keep_errors: bool = False,
        warn_once: bool = False,
    ) -> None:
        self.model, self.path, self.compute = model, path, compute
        self.keep_errors, self.warn_once, self.warned = keep_errors, warn_once, False
        self.transfers = transfers_for(model.device)
        self.cache: FeatureCache[Key] = FeatureCache(cache)
        self.most: int | None = None  # rows that fit in memory
        self._encoded = 0  # images encoded since the last result

    def run(self, batches: Iterable[B]) -> Iterator[BatchResult[B]]:
        """Yield the results of batches, in order.

        Raises:
            ImageError: an image that cannot be read, unless errors are kept.
        """
        self.path.refresh()
        yield from in_order(batches, self.launch, self.transfers.lag)

    @torch.no_grad()
    def launch(self, batch: B) -> Callable[[], BatchResult[B]] | None:
        """Start the computation of a batch.

        Returns:
            A function that waits for the result; None for a batch that only puts images into the cache.
        """
        if batch.fresh:
            self.cache = FeatureCache(self.cache.size)
        images = {key: pending.result() for key, pending in batch.opening.items()}
        pixels = self._pixels(images)
        keys = [key for key in batch.keys if key is not None]
        rows = list(range(len(batch.keys)))
        errors: dict[int, ImageError] = {}
        wait: Callable[[], Tensor] | None = None
        with sensible_threads(), self.transfers.active():
            if batch.features is not None:
                features: Tensor | None = batch.features
            else:
                new = self._encode(pixels, {key: image.name for key, image in images.items()})
                self._encoded += len(pixels)
                batch.opening = {}
                for image in images.values():
                    image.release()
                if batch.encode_only:
                    for key in self.cache.absent(keys):
                        self.cache[key] = None  # no later batch uses it
                    self.cache.used(keys)
                    return None
                rows, errors = self._readable(batch)
                row_keys = [batch.keys[i] for i in rows]
                features = new if row_keys == list(pixels) else self.cache.stacked(row_keys)
                self.cache.used(keys)
            if features is not None:
                wait = self.transfers.fetch(self._score(features, batch, rows))

        encoded, self._encoded = self._encoded, 0

        def finish() -> BatchResult[B]:
            return BatchResult(batch, rows, None if wait is None else wait(), errors, encoded)

        return finish

    def _pixels(self, images: Mapping[Key, DecodedImage]) -> dict[Key, Tensor]:
        """Return the pixels of new images; put errors into the cache or raise them."""
        pixels: dict[Key, Tensor] = {}
        for key, image in images.items():
            self._warn(image)
            if image.error is None:
                assert image.pixels is not None
                pixels[key] = image.pixels
            elif self.keep_errors:
                self.cache[key] = image.error
            else:
                raise image.error
        return pixels

    def _warn(self, image: DecodedImage) -> None:
        if image.clipped is None or (self.warn_once and self.warned):
            return
        # In the caller's thread, so that the warning shows the caller's line.
        more = " Further images like this one are not reported." if self.warn_once else ""
        warn_caller(image.clipped + more, ClippedLevelsWarning)
        self.warned = True

    def _encode(self, pixels: Mapping[Key, Tensor], names: Mapping[Key, str]) -> Tensor | None:
        """Return the features (B, ...) of B prepared images, and put them into the cache.

        The cache has an error for an image that the model refuses; without ``keep_errors`` it is raised.
        """
        if not pixels:
            return None
        images = list(pixels.values())

        def encoded(part: range) -> Tensor:
            selected = images[part.start : part.stop]
            return self.path.encode(self.transfers.upload_images(self.model.transform, selected))

        features = self._in_parts(encoded, len(images))
        self.cache.add(list(pixels), features)
        for row, reason in self.model.refused_images(features).items():
            key = list(pixels)[row]
            error = ImageError(names[key], reason)
            if not self.keep_errors:
                raise error
            self.cache[key] = error
        return features

    def _readable(self, batch: B) -> tuple[list[int], dict[int, ImageError]]:
        """Return the rows with a readable image, and the errors of the others."""
        rows, errors = [], {}
        for i, key in enumerate(batch.keys):
            if key is not None:
                image = self.cache[key]
                if isinstance(image, ImageError):
                    errors[i] = image
                else:
                    rows.append(i)
        return rows, errors

    def _score(self, features: Tensor, batch: B, rows: list[int]) -> Tensor:
        def scored(part: range) -> Tensor:
            selected = slice(part.start, part.stop)
            return self.compute(self.transfers.upload(features[selected]), batch, rows[selected])

        return self._in_parts(scored, len(rows))

    def _in_parts(self, compute: Callable[[range], Tensor], count: int) -> Tensor:
        """Compute a batch, in smaller parts if it does not fit in memory."""
        parts = list(in_batches(compute, count, self.most or count, self.path.release_memory))
        if len(parts) > 1:  # later batches would fail again
            self.most = min(self.most or count, max(map(len, parts)))
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def in_order(
    batches: Iterable[S],
    launch: Callable[[S], Callable[[], T] | None],
    lag: int,
    ready: Callable[[], bool] = lambda: True,
) -> Iterator[T]:
    """Launch batches and yield their results, in order.

    Args:
        batches: the batches.
        launch: function that starts the computation of a batch and returns a function that waits for its
            result, or None if it has none.
        lag: number of batches that may be computing when the result of an earlier one is read.
        ready: function that returns whether the next batch can be taken without waiting. While it cannot,
            results are read instead, because the next batch may depend on what happens to them.
    """
    launched: deque[Callable[[], T]] = deque()
    for batch in batches:
        result = launch(batch)
        if result is not None:
            launched.append(result)
        while launched and (len(launched) > lag or not ready()):
            yield launched.popleft()()
    while launched:
        yield launched.popleft()()


def ahead(items: Iterable[T], count: int = BATCHES_AHEAD) -> Iterator[T]:
    """Yield items, each after the next ``count`` items were taken from the iterable."""
    iterator = iter(items)
    waiting = deque(islice(iterator, count))
    while waiting:
        yield waiting.popleft()
        waiting.extend(islice(iterator, 1))
