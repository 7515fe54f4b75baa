"""A function recorded as a CUDA graph: one launch instead of hundreds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

_WARM_UP_CALLS = 2  # libraries choose kernels and allocate work space in the first calls


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
        self, function: Callable[..., Tensor], rows: int, examples: Sequence[Tensor], memory: SharedMemory
    ) -> None:
        self.memory = memory
        self.inputs = [x.new_zeros(rows, *x.shape[1:]) for x in examples]
        with memory.held():
            for fixed, example in zip(self.inputs, examples):
                fixed[: len(example)].copy_(example)
            caller, stream = torch.cuda.current_stream(), torch.cuda.Stream()
            stream.wait_stream(caller)
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_CALLS):
                    function(*self.inputs)
                self.graph = torch.cuda.CUDAGraph()
                # Other threads may allocate page-locked memory for images in the meantime.
                with torch.cuda.graph(self.graph, memory.pool, stream, capture_error_mode="thread_local"):
                    self.output = function(*self.inputs)
            caller.wait_stream(stream)

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Return the function's result for up to ``rows`` rows."""
        count = len(tensors[0])
        with self.memory.held():
            for fixed, tensor in zip(self.inputs, tensors):
                fixed[:count].copy_(tensor)
            self.graph.replay()
            return self.output[:count].clone()
