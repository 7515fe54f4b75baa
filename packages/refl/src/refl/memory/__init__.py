"""The estimate of a training step's peak memory."""

from .estimate import Memory, estimate_memory

__all__ = ["Memory", "estimate_memory"]
