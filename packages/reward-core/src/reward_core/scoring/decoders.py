"""Whether threads or processes decode images, and how they are started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch

from ..errors import InputError
from ..inputs.decode_ahead import DecodedImage, DecodingThreads, Pending
from ..inputs.decoding_process import can_decode_in_processes
from ..inputs.decoding_processes import DecodingProcesses
from ..inputs.image_file import ImageSource
from ..runs.cpus import usable_cpus
from ..runs.triton_kernels import triton_runs_on
from .pipeline import BATCHES_AHEAD
from .steps import ImageEncoder

DECODERS = ("auto", "threads", "processes")
#: Decoders of the scoring methods; bulk runs have a setting.
default_decoders = "auto"
# Fifteen processes took about a second to start. Threads beside an H200 decoded 1,100 photos in that time.
LEAST_IMAGES = 5000
# Three processes decode about as much as threads do beside a GPU.
LEAST_CPUS = 4
MOST_PROCESSES = 32
# Decoded images in shared memory: at most 1 GB.
MOST_SLOTS = 512

T = TypeVar("T")
#: Function from images to images that are being decoded, in the same order.
Submit = Callable[[Sequence[T]], list[Pending]]
#: Function that returns (path or bytes of a file, name), or None for an image that is not a file.
AsFile = Callable[[T], "tuple[str | bytes, str] | None"]


def checked_decoders(decoders: str) -> str:
    """Return the name if it is one of DECODERS; raise InputError otherwise."""
    if decoders not in DECODERS:
        raise InputError(f"decoders must be one of {', '.join(DECODERS)}, got {decoders!r}")
    return decoders


def worth_processes(device_type: str, cpus: int, images: int) -> bool:
    """Return whether processes decode faster than threads.

    A CPU computes more slowly than threads decode, and needs the cores itself.

    Args:
        device_type: type of the model's device.
        cpus: number of CPUs for decoding.
        images: number of images.
    """
    return device_type == "cuda" and cpus >= LEAST_CPUS and images >= LEAST_IMAGES


@contextmanager
def decoding(
    model: ImageEncoder,
    decode: Callable[[Any], DecodedImage],
    as_file: AsFile,
    images: int,
    batch_size: int,
    *,
    decoders: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    preparations: int = 1,
) -> Iterator[Submit]:
    """Yield a function that decodes images in threads or processes.

    Args:
        model: model that encodes the images.
        decode: function that decodes an image in a thread.
        as_file: function of an image for processes.
        images: number of images.
        batch_size: images in a batch.
        decoders: one of DECODERS (default: ``default_decoders``).
        workers: number of threads or processes (default: the number of CPUs minus one, which is left to
            the model).
        threads: default for threads.
        preparations: number of ways in which ``decode`` prepares an image. Processes know one.

    Raises:
        InputError: processes were asked for and cannot be used.
    """
    decoders = checked_decoders(decoders or default_decoders)
    with DecodingThreads(workers or threads) as in_threads:
        if not _processes_wanted(decoders, model, workers or usable_cpus(), images, preparations):
            yield lambda batch: [in_threads.submit(decode, image) for image in batch]
            return
        count = workers or max(1, min(MOST_PROCESSES, usable_cpus() - 1))
        own_size = resizes_on_device(model)
        slots = min(MOST_SLOTS, (BATCHES_AHEAD + 2) * batch_size)
        with DecodingProcesses(model.transform.square, own_size, count, slots) as processes:
            yield partial(_submit, processes, in_threads, decode, as_file)


def resizes_on_device(model: ImageEncoder) -> bool:
    """Return whether the model's device resizes images."""
    return model.resize_on_device and triton_runs_on(model.device)


def preparation(model: ImageEncoder) -> Callable:
    """Return the function that prepares a decoded image for the model's device."""
    return model.transform.prepare_for_device if resizes_on_device(model) else model.transform.prepare


def path_and_name(image: ImageSource) -> tuple[str, str] | None:
    """Return the path of an image twice, the second time as its name; None if it is not a path."""
    if not isinstance(image, (str, os.PathLike)):
        return None
    path = os.fsdecode(image)
    return path, path


def _processes_wanted(decoders: str, model: ImageEncoder, cpus: int, images: int, preparations: int) -> bool:
    why_not = None
    if not can_decode_in_processes():
        why_not = "they need Linux"
    elif preparations > 1:
        why_not = "the models prepare images in different ways"
    elif not model.transform.prepares_with_pil:
        why_not = "its transform needs torch"
    if decoders == "processes" and why_not is not None:
        raise InputError(f'Cannot decode images in processes: {why_not}. Use decoders="threads" or "auto".')
    if decoders == "auto":
        return why_not is None and worth_processes(torch.device(model.device).type, cpus, images)
    return decoders == "processes"


def _submit(
    processes: DecodingProcesses,
    threads: DecodingThreads,
    decode: Callable[[Any], DecodedImage],
    as_file: AsFile,
    batch: Sequence[Any],
) -> list[Pending]:
    """Decode files in processes and other images in threads."""
    files = [as_file(image) for image in batch]
    in_processes = iter(processes.submit([file for file in files if file is not None]))
    return [
        threads.submit(decode, image) if file is None else next(in_processes)
        for image, file in zip(batch, files)
    ]
