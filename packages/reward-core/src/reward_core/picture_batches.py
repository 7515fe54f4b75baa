"""Pictures -> features in batches: opened ahead, brought to the device, encoded, handed to a computation.

Letters in shape comments: B batch, S image side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .batching import checked_batch_size, in_batches, one_behind
from .cpu import sensible_threads
from .cuda import Uploader
from .decode_ahead import DecodedAhead
from .errors import ImageError
from .features import ImageFeatures
from .image_file import ImageSource, image_name, open_image
from .image_transform import ImageTransform

if TYPE_CHECKING:
    from .scorer import ScoringModel


@dataclass
class PictureBatch:
    """What became of the pictures at some places.

    places: all of them, in order.
    scored: those that could be opened.
    errors: why the others could not.
    result: on the CPU, of the scored ones, or None where there are none.
    """

    places: range
    scored: list[int]
    result: Tensor | None
    errors: dict[int, str] = field(default_factory=dict)


@torch.no_grad()
def over_pictures(
    model: ScoringModel,
    images: Sequence[ImageSource] | ImageFeatures,
    batch_size: int | None,
    compute: Callable[[Tensor, list[int]], Tensor],
    keep_errors: bool = False,
) -> Iterator[PictureBatch]:
    """compute(features of some pictures, their places) in batches, in order.

    On a GPU a batch is launched before the results of the one before it are waited for.

    Args:
        images: pictures, or features of them.
        batch_size: how many at once; halved where they do not fit in memory.
        keep_errors: a picture that cannot be opened becomes one of ``errors`` instead of an ImageError.
    """
    size = checked_batch_size(batch_size, model.device)
    path = model.path()
    path.refresh()
    if isinstance(images, ImageFeatures):

        def from_features(places: range) -> PictureBatch:
            with sensible_threads():
                features = images.data[places.start : places.stop].to(model.device)
                return PictureBatch(places, list(places), compute(features, list(places)))

        yield from _fetched(in_batches(from_features, len(images), size), model.device)
        return

    whole = model.resize_on_device and model.device.type == "cuda"
    upload = Uploader(model.transform, model.device)
    with DecodedAhead(partial(opened, model.transform, whole=whole), images, ahead=3 * size) as pictures:

        def from_pictures(places: range) -> PictureBatch:
            ready: dict[int, Tensor] = {}
            batch = PictureBatch(places, [], None)
            for i in places:
                try:
                    ready[i] = pictures[i]
                except ImageError as error:
                    if not keep_errors:
                        raise
                    batch.errors[i] = error.reason
            if ready:
                batch.scored = list(ready)
                with sensible_threads():
                    batch.result = compute(path.encode(upload(list(ready.values()))), batch.scored)
            return batch

        yield from _fetched(in_batches(from_pictures, len(images), size), model.device)


def opened(transform: ImageTransform, image: ImageSource, whole: bool = False) -> Tensor:
    """A picture, opened completely and prepared for ``transform.finish``. Raises ImageError."""
    picture = open_image(image)
    try:
        return transform.prepare(picture, whole)
    except ValueError as error:
        raise ImageError(image_name(image), f"cannot be turned into RGB: {error}") from error


def _fetched(batches: Iterator[PictureBatch], device: torch.device) -> Iterator[PictureBatch]:
    for batch in one_behind(batches) if device.type == "cuda" else batches:
        if batch.result is not None:
            batch.result = batch.result.cpu()
        yield batch
