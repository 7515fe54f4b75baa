"""What computes a bulk run: one device here, a process for each of several, or actors on a Ray cluster.

All run the same ShardScorer on the same fixed ranges of rows; only the writer sees which of them did what.
"""

from __future__ import annotations

from ..settings import BulkSettings
from .base import Engine, Work
from .one_device import OneDevice
from .processes import DeviceProcesses

__all__ = ["Engine", "Work", "engine_for"]


def engine_for(settings: BulkSettings) -> Engine:
    """Raises InputError where Ray is asked for and not installed."""
    if settings.engine == "ray":
        from .ray_pool import RayPool

        return RayPool(settings)
    return DeviceProcesses(settings) if len(settings.devices) > 1 else OneDevice(settings)
