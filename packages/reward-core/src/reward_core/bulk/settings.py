"""The settings of a bulk run."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import InputError
from ..models.load_options import NO_JUDGE, JudgeOptions
from ..scoring.decoders import checked_decoders
from ..scoring.precision import check_precision

ENGINES = ("local", "ray")
DEFAULT_SHARD_ROWS = 512
DEFAULT_CACHE = 256


@dataclass(frozen=True)
class BulkSettings:
    """The settings of a bulk run, apart from its input and output.

    Batches depend only on batch_size, shard_rows and cache, so only these affect how scores round; the
    numbers of devices, workers and threads do not.

    Attributes:
        model: a name, folder, file or hub repository, as for ``reward_core.load``; or several of them, which
            score the same images in one run.
        precision: "exact", "fast", "int8" or "auto".
        devices: torch device names; several devices use one process each. Empty: cuda, mps or cpu,
            whichever is available first.
        engine: "local", or "ray" for a pool of Ray Data actors.
        address: address of the Ray cluster; None starts one on this machine.
        workers: number of Ray actors (default: one per GPU of the cluster, or one per machine if it has no
            GPU).
        batch_size: rows per batch (default: 8 on a CPU, 64 on a GPU).
        shard_rows: rows per shard file.
        cache: number of encoded images to keep for later rows with the same image.
        threads: threads or processes per worker that decode images (default: one per core, at most 32;
            one core fewer for processes). Several devices or Ray workers share the cores.
        decoders: "threads" or "processes" that decode images. "auto": processes for at least 5000 rows on a
            CUDA GPU with at least 4 cores, otherwise threads.
        save_seconds: interval at which rows of unfinished shards are saved; a crash loses at most that
            much work. Ray workers return whole shards, so with engine "ray" a crash loses the shards that
            each worker has.
        judge: options of a VLM judge.
        reproducible: with precision "fast", never compile the model, so that the scores of a resumed run
            equal those of an uninterrupted run to the last bit. Otherwise they may round differently.
        files: folder with local copies of the published files of the only model, which is then a name.
    """

    model: str | tuple[str, ...] = "ImageReward-v1.0"
    precision: str = "exact"
    devices: tuple[str, ...] = ()
    engine: str = "local"
    address: str | None = None
    workers: int | None = None
    batch_size: int | None = None
    shard_rows: int = DEFAULT_SHARD_ROWS
    cache: int = DEFAULT_CACHE
    threads: int | None = None
    decoders: str = "auto"
    save_seconds: float = 30.0
    reproducible: bool = False
    judge: JudgeOptions = NO_JUDGE
    files: str | os.PathLike[str] | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The models, also if there is only one."""
        return (self.model,) if isinstance(self.model, (str, os.PathLike)) else tuple(self.model)

    def __post_init__(self) -> None:
        if not self.models:
            raise InputError("Cannot score without a model: give at least one.")
        check_precision(self.precision)
        checked_decoders(self.decoders)
        if self.engine not in ENGINES:
            raise InputError(f"Cannot use engine {self.engine!r}: it must be one of {', '.join(ENGINES)}.")
        for name, minimum in (
            ("workers", 1),
            ("batch_size", 1),
            ("shard_rows", 1),
            ("cache", 0),
            ("threads", 1),
        ):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < minimum):
                raise InputError(f"Cannot use {name}={value!r}: it must be an integer of at least {minimum}.")
        if not self.save_seconds >= 0:
            raise InputError(f"Cannot use save_seconds={self.save_seconds!r}: it must be at least 0.")
        if self.engine == "ray" and len(self.devices) > 1:
            raise InputError(
                "Cannot use several devices with engine 'ray': it assigns GPUs itself. Set workers instead."
            )
        if self.engine != "ray" and (self.address or self.workers):
            raise InputError(
                "Cannot use address or workers with engine 'local': they are settings of engine 'ray'."
            )
