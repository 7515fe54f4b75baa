"""Score on a Ray cluster of one or more machines: a Ray Data actor pool scores, this process writes.

Workers read the input themselves, so paths must point to the same files on all machines. If an actor dies,
Ray restarts it and only its current shards are scored again.
"""

from __future__ import annotations

import logging
import os
import pickle
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ...errors import InputError, RewardCoreError, WorkerError, not_installed
from ...printing.command_line import exhausted
from ..settings import BulkSettings
from ..shard_scorer import ScoredBatch
from .base import Engine, Work, local_model
from .scoring_thread import ScoringThread

OBJECT_STORE_BYTES = 256 << 20  # only shard numbers and scores pass through it
MOST_BLOCKS = 10_000  # more shards than this share blocks, and the shards of a block are rescored together


class RayPool(Engine):
    """An engine with a pool of Ray Data actors."""

    def __init__(self, settings: BulkSettings):
        self.settings, self.ray = settings, _import_ray()
        self.started = False

    def __enter__(self) -> RayPool:
        ray = self.ray
        if not ray.is_initialized():
            self._start()
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        device = self.settings.devices[0].split(":")[0] if self.settings.devices else None
        if device not in (None, "cpu", "cuda") or (device == "cuda" and not gpus):
            raise InputError(
                f"Cannot use device {device!r}: the Ray cluster has {gpus} GPUs. Use cpu or cuda."
            )
        self.device_type = device or ("cuda" if gpus else "cpu")
        machines = sum(node["Alive"] for node in ray.nodes())
        self.workers = self.settings.workers or (gpus if self.device_type == "cuda" else machines)
        self.cpus_each = max(1, cpus // self.workers)
        if self.workers > (gpus if self.device_type == "cuda" else cpus):
            available = f"{gpus} GPUs" if self.device_type == "cuda" else f"{cpus} CPUs"
            raise InputError(
                f"Cannot start {self.workers} workers: the Ray cluster has {available}. Use fewer workers."
            )
        return self

    def __exit__(self, *error: object) -> None:
        if self.started:
            self.ray.shutdown()

    def batches(self, work: Work, shards: Sequence[int]) -> Iterator[ScoredBatch]:
        ray = self.ray
        models = tuple(map(local_model, work.settings.models))
        files = work.settings.files and os.path.abspath(work.settings.files)
        work = replace(work, settings=replace(work.settings, model=models, files=files))
        # No more than an equal part, because the first actor to start would take as many as it may have.
        calls = min(work.shards_at_once(), -(-len(shards) // self.workers))
        pool = ray.data.ActorPoolStrategy(size=self.workers, max_tasks_in_flight_per_actor=calls)
        on_gpu = self.device_type == "cuda"
        resources = {"num_gpus": 1, "num_cpus": 1} if on_gpu else {"num_cpus": self.cpus_each}
        scored = ray.data.from_items(
            [{"shard": shard} for shard in shards], override_num_blocks=min(len(shards), MOST_BLOCKS)
        ).map_batches(
            RayScorer,
            fn_constructor_args=(work, self.device_type, self.cpus_each),
            batch_size=1,
            compute=pool,
            max_concurrency=calls,
            **resources,
        )
        try:
            for row in scored.iter_rows():
                result = pickle.loads(row["result"])
                if isinstance(result, RewardCoreError):
                    raise result
                if isinstance(result, str):
                    raise WorkerError(f"Cannot score on Ray: an actor failed: {result}")
                yield from result
        except ray.exceptions.RayError as error:
            reason = str(error).strip().split("\n")[-1]
            raise WorkerError(
                f"Cannot score on Ray: {reason.rstrip('.')}. Finished shards are kept; run the same "
                "command again to resume."
            ) from error

    def _start(self) -> None:
        address = self.settings.address or os.environ.get("RAY_ADDRESS") or "local"
        local: dict[str, Any] = {}
        if address == "local":
            local = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        # Ray Data keeps the arguments of its actors in its object store and warns about that in every run.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            self.ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(
                f"Cannot connect to the Ray cluster at {address!r}: {reason.rstrip('.')}."
            ) from error
        self.started = True
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        self.ray.data.DataContext.get_current().enable_progress_bars = False


class RayScorer:
    """An actor of the pool that scores shards by number, several at a time.

    Errors are returned as results, because Ray turns exceptions of an actor into long texts.

    Args:
        work: the work of the run.
        device: "cpu" or "cuda".
        cpus: CPUs for decoding images.
    """

    def __init__(self, work: Work, device: str, cpus: int):
        self.thread = ScoringThread(partial(work.load_scorer, device, cpus))

    def __del__(self) -> None:
        self.thread.close()  # otherwise the actor's process would wait for its next shard

    def __call__(self, shards: dict[str, Any]) -> Iterator[dict[str, Any]]:
        # As a generator, because Ray waits for the end of a call before the next one, but not of a generator.
        for shard in shards["shard"]:
            yield {"result": [pickle.dumps(self._result(int(shard)))]}

    def _result(self, shard: int) -> list[ScoredBatch] | RewardCoreError | str:
        try:
            return self.thread.score(shard)
        except RewardCoreError as error:
            return error
        except Exception as error:
            return exhausted(error) or traceback.format_exc()


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise InputError(f"Cannot use the engine 'ray': {not_installed('ray', 'Ray')}") from error
    return ray
