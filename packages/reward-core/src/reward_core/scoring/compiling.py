"""Functions that are compiled for input shapes that take much time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..errors import CompilationWarning
from ..runs.caller_warning import warn_caller


@dataclass(frozen=True)
class CompilePlan:
    """How and when to compile.

    Attributes:
        after: seconds that a shape runs uncompiled before it is compiled.
        backend, mode, options: arguments of ``torch.compile``.
        shapes: largest number of shapes of a function to compile; further shapes run uncompiled.
    """

    after: float
    backend: str = "inductor"
    mode: str | None = None
    options: dict[str, Any] | None = None
    shapes: int = 8


@dataclass
class _Shape:
    """One input shape: seconds spent on it and its compiled function, if any."""

    spent: float = 0.0
    compiled: Callable | None = None
    timing: list[tuple[Any, Any]] = field(default_factory=list)  # pairs of CUDA events still pending


class CompiledByShape:
    """A function that is compiled for an input shape after ``plan.after`` seconds.

    The calling thread compiles, because CUDA graphs belong to the thread that records them. Shapes are
    static. Inductor caches compiled code on disk, so later processes start faster. If compiling fails, one
    CompilationWarning gives the reason and everything runs uncompiled.

    Results are copied where CUDA graphs would overwrite them at the next call.
    """

    def __init__(self, function: Callable[..., Tensor], plan: CompilePlan) -> None:
        self.function, self.plan = function, plan
        self.shapes: dict[tuple, _Shape] = {}
        self.failed: str | None = None
        self.lock = threading.Lock()

    def __call__(self, *tensors: Tensor | None) -> Tensor:
        shape = self._shape(tensors)
        if shape.compiled is None and shape.spent >= self.plan.after:
            self._compile(shape, tensors)
        if shape.compiled is not None:
            return shape.compiled(*tensors)
        return self._timed(shape, tensors)

    def compile_for(self, *tensors: Tensor | None) -> bool:
        """Compile for the shapes of these arguments now; return whether it worked."""
        shape = self._shape(tensors)
        if shape.compiled is None:
            self._compile(shape, tensors)
        return shape.compiled is not None

    def _shape(self, tensors: tuple[Tensor | None, ...]) -> _Shape:
        key = tuple(None if t is None else (tuple(t.shape), t.stride(), t.dtype) for t in tensors)
        return self.shapes.setdefault(key, _Shape())

    def _compile(self, shape: _Shape, tensors: tuple[Tensor | None, ...]) -> None:
        with self.lock:
            done = sum(other.compiled is not None for other in self.shapes.values())
            if self.failed is not None or shape.compiled is not None or done >= self.plan.shapes:
                return
            try:
                shape.compiled = self._compiled(tensors)
            except Exception as error:  # dynamo, inductor, triton, C++ compiler: all differ
                self.failed = _reason(error)
                message = f"Cannot compile the model: {self.failed}. Scoring continues uncompiled (slower)."
                warn_caller(message, CompilationWarning)

    def _compiled(self, tensors: tuple[Tensor | None, ...]) -> Callable:
        compiled = torch.compile(
            self.function,
            dynamic=False,
            fullgraph=True,
            backend=self.plan.backend,
            mode=self.plan.mode,
            options=self.plan.options,
        )
        graphs = self.plan.mode is not None  # the modes that record CUDA graphs

        def run(*tensors: Tensor | None) -> Tensor:
            if not graphs:
                return compiled(*tensors)
            torch.compiler.cudagraph_mark_step_begin()
            return compiled(*tensors).clone()

        # torch compiles at most 8 shapes of a function. The limit is set in the plan instead.
        known = hasattr(torch._dynamo.config, "recompile_limit")
        limit = "recompile_limit" if known else "cache_size_limit"  # its name before torch 2.7
        with torch._dynamo.config.patch({limit: 1000, f"accumulated_{limit}": 1000}):
            run(*tensors)
        return run

    def _timed(self, shape: _Shape, tensors: tuple[Tensor | None, ...]) -> Tensor:
        on_gpu = any(t is not None and t.device.type == "cuda" for t in tensors)
        if on_gpu:  # the call returns before the GPU is done, so events measure the time
            while shape.timing and shape.timing[0][1].query():
                start, end = shape.timing.pop(0)
                shape.spent += start.elapsed_time(end) / 1e3
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            result = self.function(*tensors)
            end.record()
            shape.timing.append((start, end))
            return result
        started = perf_counter()
        result = self.function(*tensors)
        shape.spent += perf_counter() - started
        return result


def _reason(error: BaseException) -> str:
    """Return the first line of the innermost error that has a message."""
    inner = getattr(error, "inner_exception", None) or error.__cause__
    if isinstance(inner, Exception) and str(inner).strip():
        return _reason(inner)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
