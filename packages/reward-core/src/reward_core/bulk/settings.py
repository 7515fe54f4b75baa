"""Everything about a bulk run but its input and its target."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from ..scoring.precision import check_precision

ENGINES = ("local", "ray")
DEFAULT_SHARD_ROWS = 512
DEFAULT_CACHE = 256


@dataclass(frozen=True)
class BulkSettings:
    """How to score.

    model: a name, folder, file or hub repository, as for ``reward_core.load``.
    precision: "exact", "fast" or "auto".
    devices: torch's names; more than one: a process each. Empty: cuda, else mps, else cpu.
    engine: "local", or "ray" for a pool of Ray Data actors.
    address: the Ray cluster's; None starts one on this machine.
    workers: Ray actors (default: one a GPU of the cluster, or one a CPU where it has none).
    batch_size: rows computed at once (default: 8 on a CPU, 64 on a GPU).
    shard_rows: rows written to a file at once.
    save_seconds: how often the rows of unfinished shards are saved too; what a crash costs at most. Ray's
        workers hand over whole shards, so with engine "ray" a crash costs up to a shard a worker.
    cache: how many encoded images are kept for more prompts of theirs.
    threads: that open images, for each worker (default: one a core, 8 at most).

    Rows are computed in fixed ranges that depend on batch_size, shard_rows and cache alone, so these decide
    over a score's last bits; devices, workers and threads do not.
    """

    model: str = "ImageReward-v1.0"
    precision: str = "exact"
    devices: tuple[str, ...] = ()
    engine: str = "local"
    address: str | None = None
    workers: int | None = None
    batch_size: int | None = None
    shard_rows: int = DEFAULT_SHARD_ROWS
    cache: int = DEFAULT_CACHE
    threads: int | None = None
    save_seconds: float = 30.0

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.engine not in ENGINES:
            raise InputError(f"engine must be one of {', '.join(ENGINES)}, got {self.engine!r}")
        for name, least in (
            ("workers", 1),
            ("batch_size", 1),
            ("shard_rows", 1),
            ("cache", 0),
            ("threads", 1),
        ):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if not self.save_seconds >= 0:
            raise InputError(f"save_seconds must be a number of at least 0, got {self.save_seconds!r}")
        if self.engine == "ray" and len(self.devices) > 1:
            raise InputError("with engine 'ray' give workers, not several devices: Ray assigns GPUs itself")
        if self.engine != "ray" and (self.address or self.workers):
            raise InputError("address and workers are settings of engine 'ray'")
