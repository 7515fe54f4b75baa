"""Images that are decoded once for several models.

Every image is prepared by the transform of each model. Models with the same transform share the result.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace

from ..inputs.decode_ahead import DecodedImage, Pending, Prepare
from .decoders import preparation, resizes_on_device
from .pipeline import B, BatchResult, Pipeline, in_order
from .steps import ImageEncoder


class Preparations:
    """The different ways in which models prepare an image.

    Args:
        models: the models.

    Attributes:
        functions: functions that prepare an image, each once.
        index: index in ``functions`` of each model.
    """

    def __init__(self, models: Sequence[ImageEncoder]) -> None:
        different: dict[Hashable, Prepare] = {}
        keys = [_preparation_key(model) for model in models]
        for key, model in zip(keys, models):
            different.setdefault(key, preparation(model))
        self.functions = list(different.values())
        self.index = [list(different).index(key) for key in keys]

    def views(self, pending: Pending) -> list[SharedView]:
        """Return an image that is being decoded as each model sees it."""
        shared = _SharedImage(pending, len(self.index))
        return [SharedView(shared, index, first=i == 0) for i, index in enumerate(self.index)]


class _SharedImage:
    """An image that is being decoded for several models.

    Args:
        pending: the image, prepared by all functions.
        readers: number of models.
    """

    def __init__(self, pending: Pending, readers: int) -> None:
        self._pending, self._readers = pending, readers
        self._decoded: DecodedImage | None = None

    def result(self) -> DecodedImage:
        if self._decoded is None:
            self._decoded = self._pending.result()
        return self._decoded

    def release(self) -> None:
        """Give back the memory of the pixels once every model has called this."""
        self._readers -= 1
        if self._readers == 0:
            self.result().release()


class SharedView:
    """A shared image as one model sees it.

    Args:
        shared: the image.
        index: index of the model's preparation.
        first: whether the model is the first. Only its view has warnings.
    """

    def __init__(self, shared: _SharedImage, index: int, first: bool) -> None:
        self._shared, self._index, self._first = shared, index, first

    def result(self) -> DecodedImage:
        image = self._shared.result()
        return replace(
            image,
            pixels=(image.pixels, *image.others)[self._index] if image.error is None else None,
            clipped=image.clipped if self._first else None,
            on_release=self._shared.release,
            others=(),
        )


def run_together(
    pipelines: Sequence[Pipeline[B]],
    batches: Iterable[Sequence[B]],
    ready: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[BatchResult[B], ...]]:
    """Yield the results of several pipelines, which compute the same images batch by batch.

    Args:
        pipelines: the pipelines.
        batches: one batch for each pipeline.
        ready: function that returns whether the next batch can be taken without waiting.
    """
    for pipeline in pipelines:
        pipeline.path.refresh()

    def launch(batch: Sequence[B]) -> Callable[[], tuple[BatchResult[B], ...]] | None:
        launched = [pipeline.launch(part) for pipeline, part in zip(pipelines, batch, strict=True)]
        results = [result for result in launched if result is not None]
        return (lambda: tuple(result() for result in results)) if results else None

    yield from in_order(batches, launch, max(pipeline.transfers.lag for pipeline in pipelines), ready)


def _preparation_key(model: ImageEncoder) -> Hashable:
    """Return a key that is equal for models that prepare images equally."""
    transform = model.transform
    return (transform.square, resizes_on_device(model)) if transform.prepares_with_pil else id(transform)
