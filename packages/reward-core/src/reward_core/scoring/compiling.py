"""Functions that are compiled, or recorded as CUDA graphs, for input shapes that take much time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..errors import CompilationWarning
from ..runs.caller_warning import warn_caller
from .batching import is_out_of_memory
from .cuda_graph import LazyMemory, RecordedFunction

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompilePlan:
    """How and when to compile.

    Compiling a shape pays once the time it saves exceeds the time it takes. Nobody knows how much work is to
    come, so a shape is compiled when it has run for as long as it would take to earn the compilation back.

    Attributes:
        seconds: time that compiling takes.
        saves: share of the running time that it saves.
        backend, mode, options: arguments of ``torch.compile``.
        shapes: largest number of shapes of a function to compile; further shapes run uncompiled.
        graphs: record CUDA graphs. A shape is recorded at its third call, before it is compiled, because
            that takes less than a second.
        fixed_batch: the batch size does not vary, as in training: a graph computes as many rows as it was
            recorded with, and a function that does not fit in memory as a graph runs uncompiled.
            Otherwise graphs compute powers of two, and the caller is expected to try a smaller batch.
    """

    seconds: float
    saves: float
    backend: str = "inductor"
    mode: str | None = None
    options: dict[str, Any] | None = None
    shapes: int = 8
    graphs: bool = False
    fixed_batch: bool = False

    @property
    def after(self) -> float:
        """Seconds that a shape runs uncompiled; infinity for a plan that only records graphs."""
        return self.seconds / self.saves


_CALLS_BEFORE_RECORDING = 2


@dataclass
class _Shape:
    """One input shape.

    Attributes:
        rows: number of rows of the compiled or recorded function.
        calls: number of calls so far.
        spent: seconds spent uncompiled.
        run: the recorded or compiled function, if any.
        compiled: whether ``run`` is compiled.
        timing: pairs of CUDA events that are still pending.
    """

    rows: int
    calls: int = 0
    spent: float = 0.0
    run: Callable[..., Tensor] | None = None
    compiled: bool = False
    timing: list[tuple[Any, Any]] = field(default_factory=list)


class CompiledByShape:
    """A function that is compiled for an input shape once that pays (see `CompilePlan`).

    The first dimension of all arguments and of the result is the batch. With CUDA graphs, a batch uses the
    graph of the next power of two, so that a run's last batch needs no graph of its own, unless the plan has
    a fixed batch.

    Shapes are static. Inductor caches compiled code on disk, so later processes start faster. If compiling,
    recording or a compiled function fails, one CompilationWarning gives the reason and everything runs
    uncompiled.

    Args:
        function: function of tensors.
        plan: how and when to compile.
        memory: memory of the graphs, to share it with functions that do not run at the same time; None: own
            memory.
    """

    def __init__(
        self, function: Callable[..., Tensor], plan: CompilePlan, memory: LazyMemory | None = None
    ) -> None:
        self.function, self.plan = function, plan
        self.shapes: dict[tuple, _Shape] = {}
        self.failed: str | None = None
        self.lock = threading.RLock()
        self._memory = memory or LazyMemory()

    def __call__(self, *tensors: Tensor | None) -> Tensor:
        shape = self._shape(tensors)
        shape.calls += 1
        if not shape.compiled and shape.spent >= self.plan.after:
            self._build(shape, tensors, compiled=True)
        elif shape.run is None and self._records(tensors) and shape.calls > _CALLS_BEFORE_RECORDING:
            self._build(shape, tensors, compiled=False)
        run = shape.run
        if run is not None:
            try:
                return run(*tensors) if shape.compiled else self._timed(shape, run, tensors)
            except Exception as error:  # any error of a compiler or driver
                if self._needs_smaller_batch(error):
                    raise
                self._fail(error)
        return self._timed(shape, self.function, tensors)

    def compile_for(self, *tensors: Tensor | None) -> bool:
        """Compile or record for the shapes of these arguments now; return whether it worked."""
        shape = self._shape(tensors)
        compiles = self.plan.after < float("inf")
        if compiles or self._records(tensors):
            self._build(shape, tensors, compiled=compiles)
        return shape.run is not None and shape.compiled == compiles

    def release(self) -> None:
        """Give back the memory of recorded functions. They are recorded again when they are needed."""
        with self.lock:
            for shape in self.shapes.values():
                if shape.run is not None and self.plan.graphs:
                    shape.run, shape.compiled, shape.calls = None, False, 0
            self._memory.forget()

    def _records(self, tensors: tuple[Tensor | None, ...]) -> bool:
        first = tensors[0]
        return self.plan.graphs and first is not None and first.device.type == "cuda"

    def _shape(self, tensors: tuple[Tensor | None, ...]) -> _Shape:
        first = tensors[0]
        assert first is not None
        rounded = self._records(tensors) and not self.plan.fixed_batch
        rows = 1 << (len(first) - 1).bit_length() if rounded else len(first)
        # The strides of a recorded function's arguments do not matter, because they are copied.
        key = (
            rows,
            *(
                None
                if t is None
                else (tuple(t.shape[1:]), None if self._records(tensors) else t.stride(), t.dtype)
                for t in tensors
            ),
        )
        return self.shapes.setdefault(key, _Shape(rows))

    def _build(self, shape: _Shape, tensors: tuple[Tensor | None, ...], compiled: bool) -> None:
        """Compile or record a shape, or both."""
        with self.lock:
            built = sum(other.run is not None for other in self.shapes.values())
            no_room = shape.run is None and built >= self.plan.shapes
            if self.failed is not None or no_room or (shape.run is not None and shape.compiled >= compiled):
                return
            try:
                with _any_number_of_shapes():
                    run = self._compiled() if compiled else self.function
                    if self._records(tensors):
                        run = self._recorded(run, shape.rows, tensors)
                    else:
                        run(*tensors)
            except Exception as error:  # dynamo, inductor, triton, C++ compiler, driver: all differ
                self._memory.forget()
                if self._needs_smaller_batch(error):
                    raise
                self._fail(error)
                return
            shape.run, shape.compiled = run, compiled

    def _compiled(self) -> Callable[..., Tensor]:
        return torch.compile(
            self.function,
            dynamic=False,
            fullgraph=True,
            backend=self.plan.backend,
            mode=self.plan.mode,
            options=self.plan.options,
        )

    def _recorded(
        self, function: Callable[..., Tensor], rows: int, tensors: tuple[Tensor | None, ...]
    ) -> Callable[..., Tensor]:
        present = [t for t in tensors if t is not None]

        def without_none(*some: Tensor) -> Tensor:
            remaining = iter(some)
            return function(*(None if t is None else next(remaining) for t in tensors))

        recorded = RecordedFunction(without_none, rows, present, self._memory.get())
        return lambda *given: recorded(*(t for t in given if t is not None))

    def _needs_smaller_batch(self, error: Exception) -> bool:
        return is_out_of_memory(error) and not self.plan.fixed_batch

    def _fail(self, error: Exception) -> None:
        """Warn once, and run everything uncompiled from now on."""
        for shape in self.shapes.values():
            shape.run, shape.compiled = None, False
        self._memory.forget()
        if self.failed is None:
            self.failed = _reason(error)
            logger.info("compiling or recording failed", exc_info=error)
            message = f"Cannot compile the model: {self.failed}. It runs uncompiled (slower)."
            warn_caller(message, CompilationWarning)

    def _timed(self, shape: _Shape, run: Callable[..., Tensor], tensors: tuple[Tensor | None, ...]) -> Tensor:
        if self.failed is not None or self.plan.after == float("inf"):
            return run(*tensors)
        first = tensors[0]
        if first is not None and first.device.type == "cuda":
            # The call returns before the GPU is done, so events measure the time.
            while shape.timing and shape.timing[0][1].query():
                start, end = shape.timing.pop(0)
                shape.spent += start.elapsed_time(end) / 1e3
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            result = run(*tensors)
            end.record()
            shape.timing.append((start, end))
            return result
        started = perf_counter()
        result = run(*tensors)
        shape.spent += perf_counter() - started
        return result


def _any_number_of_shapes() -> AbstractContextManager[None]:
    """Return a context in which torch compiles more than 8 shapes of a function. The plan has a limit."""
    known = hasattr(torch._dynamo.config, "recompile_limit")
    limit = "recompile_limit" if known else "cache_size_limit"  # its name before torch 2.7
    return torch._dynamo.config.patch({limit: 1000, f"accumulated_{limit}": 1000})


def _reason(error: BaseException) -> str:
    """Return the first line of the innermost error that has a message."""
    inner = getattr(error, "inner_exception", None) or error.__cause__
    if isinstance(inner, Exception) and str(inner).strip():
        return _reason(inner)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
