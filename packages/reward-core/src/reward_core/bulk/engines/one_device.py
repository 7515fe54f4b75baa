"""Score on one device in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...scoring.device import usable_device
from ..settings import BulkSettings
from ..shard_scorer import ScoredBatch
from .base import Engine, Work, load_models


class OneDevice(Engine):
    def __init__(self, settings: BulkSettings):
        self.settings = settings
        self.device = usable_device(settings.devices[0] if settings.devices else None)
        self.device_type = self.device.type

    def __enter__(self) -> OneDevice:
        self._group = load_models(self.settings, self.device)
        return self

    def batches(self, work: Work, shards: Sequence[int]) -> Iterator[ScoredBatch]:
        return work.scorer(self._group).score(shards)
