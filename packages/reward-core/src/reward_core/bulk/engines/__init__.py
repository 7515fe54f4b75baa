"""The engines of a bulk run: one device, one process per device, or actors on a Ray cluster.

All engines run the same ShardScorer on the same fixed shards.
"""

from __future__ import annotations

from ..settings import BulkSettings
from .base import Engine, Work
from .one_device import OneDevice
from .processes import DeviceProcesses

__all__ = ["Engine", "Work", "engine_for"]


def engine_for(settings: BulkSettings) -> Engine:
    """Return the engine that the settings select. Raise InputError if Ray is needed but not installed."""
    if settings.engine == "ray":
        from .ray_pool import RayPool

        return RayPool(settings)
    return DeviceProcesses(settings) if len(settings.devices) > 1 else OneDevice(settings)
