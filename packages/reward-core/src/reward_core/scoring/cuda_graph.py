"""A function recorded as a CUDA graph: one launch instead of hundreds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

_WARM_UP_CALLS = 2  # libraries choose kernels and allocate work space in the first calls
_RECORDING = threading.Lock()  # torch records one graph at a time, and waits for the device before it starts
_ENDS_FAILED_RECORDINGS = torch.__version__ >= "2.12"  # a comparison of versions, not of text
_failed_graphs: list[torch.cuda.CUDAGraph] = []  # kept, because torch before 2.12 may have pointers to them


class SharedMemory:
    """The memory of several recorded functions, of which one runs at a time, on any thread and stream."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self._lock = threading.Lock()
        self._free = torch.cuda.Event()  # recorded when a function is done with the memory

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the other functions, and let them wait for what is launched in the block."""
        with self._lock:
            stream = torch.cuda.current_stream()
            stream.wait_event(self._free)
            try:
                yield
            finally:
                self._free.record(stream)


class LazyMemory:
    """Memory for functions of which one runs at a time, allocated at the first recording."""

    def __init__(self) -> None:
        self._memory: SharedMemory | None = None

    def get(self) -> SharedMemory:
        self._memory = self._memory or SharedMemory()
        return self._memory

    def forget(self) -> None:
        """Use new memory from now on: torch cannot record into memory that no graph uses any more."""
        self._memory = None


class RecordedFunction:
    """A function of tensors with a fixed shape, recorded once and replayed at every call.

    Any thread may call it. Results are copies, so a later call does not change them.

    Args:
        function: function of tensors on one CUDA device that never waits for the device.
        rows: size of the first dimension of all arguments and of the result; a call may pass fewer rows.
        examples: arguments with the shapes (apart from the rows) and dtypes of later calls.
        memory: memory for the function's results, shared with other functions.
    """

    def __init__(
        self, function: Callable[..., Any], rows: int, examples: Sequence[Tensor], memory: SharedMemory
    ) -> None:
        self.memory = memory
        # Tensors created in inference mode could not be written outside of it later.
        with torch.inference_mode(False), torch.no_grad(), memory.held():
            self.inputs = [x.new_zeros(rows, *x.shape[1:]) for x in examples]
            for fixed, example in zip(self.inputs, examples):
                fixed[: len(example)].copy_(example)
            caller, stream = torch.cuda.current_stream(), torch.cuda.Stream()
            stream.wait_stream(caller)
            try:
                with torch.cuda.stream(stream):
                    for _ in range(_WARM_UP_CALLS):
                        function(*self.inputs)
                    self.graph = torch.cuda.CUDAGraph()
                    with _recording(self.graph, memory, stream):
                        self.output = function(*self.inputs)
            finally:  # also after an error: the memory of the inputs is used again on the caller's stream
                caller.wait_stream(stream)

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Return the function's result for up to ``rows`` rows."""
        count = len(tensors[0])
        with self.memory.held():
            return self._replayed(tensors)[:count].clone()

    def in_place(self, *tensors: Tensor) -> Any:
        """Return the function's result, of any structure, in the memory of the graph.

        The next call overwrites it, and so may functions with the same memory that were recorded earlier.
        """
        with self.memory.held():
            return self._replayed(tensors)

    def _replayed(self, tensors: Sequence[Tensor]) -> Any:
        for fixed, tensor in zip(self.inputs, tensors):
            fixed[: len(tensor)].copy_(tensor)
        self.graph.replay()
        return self.output


@contextmanager
def _recording(
    graph: torch.cuda.CUDAGraph, memory: SharedMemory, stream: torch.cuda.Stream
) -> Iterator[None]:
    """Record the work of the block. An error of the block is the cause of the error that is raised."""
    cause: Exception | None = None
    try:
        # Other threads may allocate page-locked memory for images in the meantime.
        with _RECORDING, torch.cuda.graph(graph, memory.pool, stream, capture_error_mode="thread_local"):
            try:
                yield
            except Exception as error:
                cause = error
                raise
    except Exception as error:
        if not _ENDS_FAILED_RECORDINGS:
            _end_failed_recording(graph, memory, stream)
        if cause is None or error is cause:
            raise
        raise error from cause  # the driver's error names no reason
    finally:
        cause = None  # its frames hold the tensors of the batch


def _end_failed_recording(
    graph: torch.cuda.CUDAGraph, memory: SharedMemory, stream: torch.cuda.Stream
) -> None:
    """Let torch leave the recording, which torch before 2.12 forgets (pytorch PR 180395).

    Otherwise its allocator stays in the memory of the graph, ``torch.cuda.empty_cache`` fails, and so does
    every random number on the device.
    """
    device = torch.cuda.current_device()
    # The allocator has left the recording already if the driver could end it.
    with suppress(AttributeError, RuntimeError):
        torch._C._cuda_endAllocateToPool(device, memory.pool)
        torch._C._cuda_releasePool(device, memory.pool)
        _failed_graphs.append(graph)
    # The generator of random numbers leaves with the end of any recording.
    with suppress(RuntimeError), _RECORDING:
        other = torch.cuda.CUDAGraph()
        with torch.cuda.graph(other, stream=stream, capture_error_mode="thread_local"):
            torch.zeros(1, device=stream.device)
