"""Copies between the CPU and the model's device.

Shapes: B images in a batch, S image side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from ..inputs.image_transform import ImageTransform
from ..runs.cuda import upload, without_tf32

COPYING_THREADS = 4


class Transfers:
    """Copies to and from a device that computes while the CPU waits: a CPU itself, or mps.

    Attributes:
        lag: number of batches that may be computing when the result of an earlier one is read.
    """

    lag = 0

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def active(self) -> AbstractContextManager[object]:
        """Return a context for launching work on the device."""
        return nullcontext()

    def upload(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the CPU on the device."""
        return upload(tensor, self.device)

    def upload_images(self, transform: ImageTransform, images: Sequence[Tensor]) -> Tensor:
        """Return B prepared images as one batch on the device, for ``transform.finish``."""
        return torch.stack(list(images)).to(self.device)

    def fetch(self, result: Tensor) -> Callable[[], Tensor]:
        """Return a function that waits for a result and returns it on the CPU."""
        return result.cpu


class CudaTransfers(Transfers):
    """Copies to and from a CUDA GPU, during which neither waits for the other.

    They go through page-locked memory, and images on a separate stream.

    torch reuses page-locked memory only after the copies from it are done.
    """

    lag = 2

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the device current and switch TF32 off while work is launched."""
        with torch.cuda.device(self.device), without_tf32(self.device):
            yield

    @cached_property
    def stream(self) -> torch.cuda.Stream:
        """The stream for images; one per device, because every stream has its own memory pool."""
        return torch.cuda.Stream(self.device)

    def upload_images(self, transform: ImageTransform, images: Sequence[Tensor]) -> Tensor:
        """Return B prepared images as one batch on the device, for ``transform.finish``.

        Images in their own size are resized on the device. All of it runs on the separate stream, while the
        device computes earlier batches.
        """
        compute = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.stream):
            batch = self._batch(transform, images)
        compute.wait_stream(self.stream)
        batch.record_stream(compute)  # keeps the memory until the model has read it
        return batch

    def _batch(self, transform: ImageTransform, images: Sequence[Tensor]) -> Tensor:
        by_shape: dict[torch.Size, list[int]] = {}
        for i, image in enumerate(images):
            by_shape.setdefault(image.shape, []).append(i)
        parts = []
        for shape, indices in by_shape.items():
            part = self._stacked([images[i] for i in indices])
            in_own_size = part.dtype == torch.uint8 and tuple(shape) != (transform.size, transform.size, 3)
            parts.append(transform.resize_on_device(part) if in_own_size else part)
        if len(parts) == 1:
            return parts[0]
        batch = torch.empty(len(images), *parts[0].shape[1:], dtype=parts[0].dtype, device=self.device)
        for part, indices in zip(parts, by_shape.values()):
            for row, i in zip(part, indices):
                batch[i].copy_(row)
        return batch

    def _stacked(self, images: Sequence[Tensor]) -> Tensor:
        """Return images of equal shape as one tensor on the device."""
        shape = (len(images), *images[0].shape)
        if not images[0].is_pinned():  # one copy for all of them
            stacked = torch.empty(shape, dtype=images[0].dtype, pin_memory=True)
            copy_to_rows(stacked, images)
            return self.upload(stacked)
        batch = torch.empty(shape, dtype=images[0].dtype, device=self.device)
        for row, image in zip(batch, images):
            row.copy_(image, non_blocking=True)
        return batch

    def fetch(self, result: Tensor) -> Callable[[], Tensor]:
        on_cpu = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        on_cpu.copy_(result, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(self.device))

        def wait() -> Tensor:
            done.synchronize()
            return on_cpu

        return wait


def copy_to_rows(target: Tensor, images: Sequence[Tensor]) -> None:
    """Copy images of equal shape on the CPU to the rows of a tensor, with a few threads.

    A single thread, which also launches the model's work, would be as busy as a fast GPU. torch's own threads
    would compete with those that decode.

    Args:
        target: (B, ...).
        images: B tensors (...).
    """
    rows, count = target.numpy(), len(images)

    def copy(first: int) -> None:
        for row in range(first, count, COPYING_THREADS):
            np.copyto(rows[row], images[row].numpy())  # without Python's lock

    for _ in _copying_threads().map(copy, range(min(COPYING_THREADS, count))):
        pass


@cache
def _copying_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(COPYING_THREADS, thread_name_prefix="reward-core-copy")


@cache
def transfers_for(device: torch.device) -> Transfers:
    """Return the copies for a device, one object per device and process."""
    if device.type == "cuda":
        return CudaTransfers(device)
    return Transfers(device)
