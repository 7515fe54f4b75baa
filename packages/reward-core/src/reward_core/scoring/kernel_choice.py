"""The kernels of a fused CPU path: torch's at first, compiled ones once compiling pays."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from torch import Tensor

from ..errors import CompilationWarning
from ..network.compiled_kernels import compile_kernels
from ..network.cpu_kernels import TorchKernels
from ..runs.caller_warning import warn_caller

# Compiling takes about 3 s and saves a third of the time. Nobody knows how much work is to come, so it is
# done when torch's kernels have run for as long as it would take to earn that back.
SECONDS_BEFORE_COMPILING = 6.0


class HasKernels(Protocol):
    """Steps that use exchangeable kernels (cpu_ops.py, int8_ops.py)."""

    kernels: TorchKernels


class KernelChoice:
    """Exchanges the kernels of some steps for compiled ones once that pays.

    If compiling fails, one CompilationWarning gives the reason and torch's kernels stay.

    Args:
        ops: the steps, which have the same kernels.
    """

    def __init__(self, *ops: HasKernels) -> None:
        self.ops, self.spent, self.failed = ops, 0.0, False

    @property
    def compiled(self) -> bool:
        """Whether the steps use compiled kernels."""
        return self.ops[0].kernels.compiled

    def run(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return ``function(x)``, a step of work; compile first if that pays by now."""
        if self.compiled or self.failed:
            return function(x)
        if self.spent >= SECONDS_BEFORE_COMPILING:
            self.compile()
        started = perf_counter()
        result = function(x)
        self.spent += perf_counter() - started
        return result

    def compile(self) -> bool:
        """Compile now; return whether the steps use compiled kernels."""
        if not self.compiled and not self.failed:
            try:
                kernels = compile_kernels()
            except OSError as error:
                self.failed = True
                message = f"Cannot compile the model: {error}. Scoring continues uncompiled (slower)."
                warn_caller(message, CompilationWarning)
            else:
                for ops in self.ops:
                    ops.kernels = kernels
        return self.compiled
