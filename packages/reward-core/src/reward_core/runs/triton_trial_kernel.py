"""A Triton kernel that tries whether kernels can be compiled. Import it only where Triton is installed."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def store_one(target):
    """Store 1 in the first element of an int32 tensor."""
    tl.store(target, 1)
