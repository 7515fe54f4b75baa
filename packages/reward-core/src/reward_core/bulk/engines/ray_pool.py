"""A Ray cluster, of this machine or of many: a Ray Data actor pool scores, this process writes.

Workers read the input themselves, so paths must lead to the same files on all machines. An actor that dies is
started again by Ray and its shards are scored again; nothing else is lost.
"""

from __future__ import annotations

import logging
import os
import pickle
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from ...errors import InputError, RewardCoreError, WorkerError
from ..settings import BulkSettings
from ..shard_scorer import ScoredBatch, ShardScorer
from .base import Engine, Work, local_model

OBJECT_STORE_BYTES = 256 << 20  # shard numbers and scores are all that passes through it
MOST_BLOCKS = 10_000  # shards beyond this many share a block, and so are lost together if an actor dies


class RayPool(Engine):
    def __init__(self, settings: BulkSettings):
        self.settings, self.ray = settings, _import_ray()
        self.started = False

    def __enter__(self) -> RayPool:
        ray = self.ray
        if not ray.is_initialized():
            self._start()
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        asked = self.settings.devices[0].split(":")[0] if self.settings.devices else None
        if asked not in (None, "cpu", "cuda") or (asked == "cuda" and not gpus):
            raise InputError(f"device {asked!r} cannot be used: the Ray cluster has {gpus} GPUs")
        self.device_type = asked or ("cuda" if gpus else "cpu")
        machines = sum(node["Alive"] for node in ray.nodes())
        self.workers = self.settings.workers or (gpus if self.device_type == "cuda" else machines)
        self.cpus_each = max(1, cpus // self.workers)
        if self.workers > (gpus if self.device_type == "cuda" else cpus):
            has = f"{gpus} GPUs" if self.device_type == "cuda" else f"{cpus} CPUs"
            raise InputError(f"{self.workers} workers were asked for, but the Ray cluster has {has}")
        return self

    def __exit__(self, *error: object) -> None:
        if self.started:
            self.ray.shutdown()

    def batches(self, work: Work, shards: Sequence[int]) -> Iterator[ScoredBatch]:
        ray = self.ray
        work = replace(work, settings=replace(work.settings, model=local_model(work.settings.model)))
        pool = ray.data.ActorPoolStrategy(size=self.workers, max_tasks_in_flight_per_actor=2)
        on_gpu = self.device_type == "cuda"
        resources = {"num_gpus": 1, "num_cpus": 1} if on_gpu else {"num_cpus": self.cpus_each}
        scored = ray.data.from_items(
            [{"shard": shard} for shard in shards], override_num_blocks=min(len(shards), MOST_BLOCKS)
        ).map_batches(
            RayScorer,
            fn_constructor_args=(work, self.device_type),
            batch_size=1,
            compute=pool,
            **resources,
        )
        try:
            for row in scored.iter_rows():
                answer = pickle.loads(row["answer"])
                if isinstance(answer, RewardCoreError):
                    raise answer
                if isinstance(answer, str):
                    raise WorkerError(f"Ray: an actor failed: {answer}")
                yield from answer
        except ray.exceptions.RayError as error:
            reason = str(error).strip().split("\n")[-1]
            raise WorkerError(
                f"Ray: {reason}; the shards of scores that are done are kept, and the same command goes on"
            ) from error

    def _start(self) -> None:
        address = self.settings.address or os.environ.get("RAY_ADDRESS") or "local"
        local: dict[str, Any] = {}
        if address == "local":
            local = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        # Ray Data has its actors' arguments in its object store, and complains of that in red, each time.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            self.ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"the Ray cluster at {address!r} cannot be used: {reason}") from error
        self.started = True
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        self.ray.data.DataContext.get_current().enable_progress_bars = False


class RayScorer:
    """An actor of the pool: shard numbers in, their scored batches out.

    Failures are answers, too: of what an actor raises, Ray brings back text, within much of its own.
    """

    def __init__(self, work: Work, device: str):
        self.work, self.device = work, device

    @cached_property
    def scorer(self) -> ShardScorer:
        return self.work.load_scorer(self.device)

    def __call__(self, shards: dict[str, Any]) -> dict[str, Any]:
        return {"answer": [pickle.dumps(self._answer(int(shard))) for shard in shards["shard"]]}

    def _answer(self, shard: int) -> list[ScoredBatch] | RewardCoreError | str:
        try:
            return list(self.scorer.score([shard]))
        except RewardCoreError as error:
            return error
        except Exception:
            return traceback.format_exc()


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise InputError(
            "Cannot use the engine 'ray': Ray is not installed. Run `pip install ray`."
        ) from error
    return ray
