"""The scoring pipeline: decode, upload, encode and score images in batches.

Shapes: B images of a batch, S image side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ..errors import ImageError
from ..inputs.clipped_levels import clipped_levels, warn_of_levels
from ..inputs.decode_ahead import DecodedAhead
from ..inputs.image_file import ImageSource, decoded_image, image_name, rgb_guard
from ..inputs.image_transform import ImageTransform
from .batching import checked_batch_size, in_batches, one_behind
from .cpu import sensible_threads
from .cuda import Uploader
from .features import ImageFeatures
from .steps import ImageEncoder


@dataclass
class ImageBatch:
    """The result of one batch of images.

    Attributes:
        indices: indices of all images in the batch.
        scored: indices of the images that could be read, in order.
        result: result of the computation for the images in ``scored``, on the CPU; None if it is empty.
        errors: reason why an image cannot be read, by index.
    """

    indices: range
    scored: list[int]
    result: Tensor | None
    errors: dict[int, str] = field(default_factory=dict)


@torch.no_grad()
def image_batches(
    model: ImageEncoder,
    images: Sequence[ImageSource] | ImageFeatures,
    batch_size: int | None,
    compute: Callable[[Tensor, list[int]], Tensor],
    keep_errors: bool = False,
) -> Iterator[ImageBatch]:
    """Encode images in batches and yield ``compute(features, indices)`` of each.

    The batches are in order. On a GPU each is launched before the previous one is done.

    Args:
        model: model that encodes the images.
        images: images or their features.
        batch_size: images in a batch; halved when they do not fit in memory.
        compute: function of features (B, ...) on the model's device and the indices of their images.
        keep_errors: store unreadable images in ``errors`` instead of raising ImageError.

    Raises:
        ImageError: an image that cannot be read.
    """
    size = checked_batch_size(batch_size, model.device)
    path = model.path()
    path.refresh()
    if isinstance(images, ImageFeatures):

        def from_features(indices: range) -> ImageBatch:
            with sensible_threads():
                features = images.data[indices.start : indices.stop].to(model.device)
                return ImageBatch(indices, list(indices), compute(features, list(indices)))

        yield from _fetched(in_batches(from_features, len(images), size), model.device)
        return

    whole = model.resize_on_device and model.device.type == "cuda"
    upload = Uploader(model.transform, model.device)
    with DecodedAhead(partial(opened, model.transform, whole=whole), images, ahead=3 * size) as decoded:

        def from_images(indices: range) -> ImageBatch:
            ready: dict[int, Tensor] = {}
            batch = ImageBatch(indices, [], None)
            for i in indices:
                try:
                    ready[i], clipped = decoded[i]
                    if clipped:  # warn in the caller's thread, so that the warning shows the caller's line
                        warn_of_levels(clipped, image_name(images[i]))
                except ImageError as error:
                    if not keep_errors:
                        raise
                    batch.errors[i] = error.reason
            if ready:
                batch.scored = list(ready)
                with sensible_threads():
                    batch.result = compute(path.encode(upload(list(ready.values()))), batch.scored)
            return batch

        yield from _fetched(in_batches(from_images, len(images), size), model.device)


def opened(transform: ImageTransform, image: ImageSource, whole: bool = False) -> tuple[Tensor, str | None]:
    """Decode an image and prepare it for ``transform.finish``.

    Returns:
        The prepared image, and a description of the levels that are clipped at 8 bits, if any.

    Raises:
        ImageError: the image cannot be decoded or converted to RGB.
    """
    with decoded_image(image, warn=False) as decoded, rgb_guard(image_name(image)):
        return transform.prepare(decoded, whole), clipped_levels(decoded)


def _fetched(batches: Iterator[ImageBatch], device: torch.device) -> Iterator[ImageBatch]:
    """Yield the batches with their results on the CPU."""
    for batch in one_behind(batches) if device.type == "cuda" else batches:
        if batch.result is not None:
            batch.result = batch.result.cpu()
        yield batch
