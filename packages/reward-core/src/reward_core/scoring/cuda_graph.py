"""A function recorded as a CUDA graph: one launch instead of hundreds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_WARM_UP_CALLS = 2  # libraries choose kernels and allocate work space in the first calls


class RecordedFunction:
    """A function of tensors with a fixed shape, recorded once and replayed at every call.

    Any thread may call it. Results are copies, so a later call does not change them.

    Args:
        function: function of tensors on one CUDA device that never waits for the device.
        rows: size of the first dimension of all arguments and of the result; a call may pass fewer rows.
        examples: arguments with the shapes (apart from the rows) and dtypes of later calls.
        pool: memory pool to share with other recorded functions that have the same ``lock``.
        lock: held while the function is recorded or replayed.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        rows: int,
        examples: Sequence[Tensor],
        pool: Any,
        lock: threading.Lock,
    ) -> None:
        self.lock = lock
        self.inputs = [x.new_zeros(rows, *x.shape[1:]) for x in examples]
        with lock:
            for fixed, example in zip(self.inputs, examples):
                fixed[: len(example)].copy_(example)
            stream = torch.cuda.Stream(self.inputs[0].device)
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_CALLS):
                    function(*self.inputs)
                self.graph = torch.cuda.CUDAGraph()
                # Other threads may allocate page-locked memory for images in the meantime.
                with torch.cuda.graph(self.graph, pool, stream, capture_error_mode="thread_local"):
                    self.output = function(*self.inputs)
            torch.cuda.current_stream().wait_stream(stream)

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Return the function's result for up to ``rows`` rows."""
        count = len(tensors[0])
        with self.lock:
            for fixed, tensor in zip(self.inputs, tensors):
                fixed[:count].copy_(tensor)
            self.graph.replay()
            return self.output[:count].clone()
