"""Several devices of this machine: a process for each, which read and score; this one writes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import cast

import torch

from ...errors import InputError, RewardCoreError, WorkerError
from ...printing.command_line import exhausted
from ...runs.cpus import usable_cpus
from ...scoring.device import usable_device
from ..settings import BulkSettings
from ..shard_scorer import ScoredBatch
from .base import Engine, Work

SHARDS_AHEAD = 2  # a process reads its next shard while it computes one


class DeviceProcesses(Engine):
    """Processes are spawned, so a script that uses them needs the usual ``if __name__ == "__main__"``."""

    def __init__(self, settings: BulkSettings):
        self.devices = [str(usable_device(device)) for device in settings.devices]
        types = sorted({torch.device(device).type for device in self.devices})
        if len(types) > 1:
            raise InputError(f"devices of one kind were expected, got {' and '.join(types)}")
        self.device_type = types[0]
        self.processes: list[BaseProcess] = []

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()

    def batches(self, work: Work, shards: Sequence[int]) -> Iterator[ScoredBatch]:
        context = multiprocessing.get_context("spawn")
        todo = deque(shards)
        at_work: dict[Connection, tuple[str, BaseProcess]] = {}
        share = max(1, usable_cpus() // len(self.devices))
        computing = max(1, torch.get_num_threads() // len(self.devices))
        for device in self.devices:
            here, there = context.Pipe()
            process: BaseProcess = context.Process(
                target=_work, args=(there, work, device, share, computing), daemon=True
            )
            process.start()
            there.close()  # so that the pipe ends with the process
            self.processes.append(process)
            at_work[here] = device, process
            for _ in range(SHARDS_AHEAD):
                _send_next(here, todo)
        while at_work:
            for connection in cast("list[Connection]", wait(list(at_work))):
                device, process = at_work[connection]
                try:
                    message = connection.recv()
                except (EOFError, OSError) as error:
                    process.join(5)
                    raise WorkerError(
                        f"the process of {device} ended ({_ending(process.exitcode)}); the shards of scores "
                        "that are done are kept, and the same command goes on from them"
                    ) from error
                if message is None:
                    del at_work[connection]
                elif isinstance(message, str):
                    raise WorkerError(f"the process of {device} failed: {message}")
                else:
                    if message.last:
                        _send_next(connection, todo)
                    yield message


def _send_next(connection: Connection, todo: deque[int]) -> None:
    """The next shard, or None when there is none."""
    # If the process is gone, that is noticed where its answer is waited for.
    with suppress(OSError):
        connection.send(todo.popleft() if todo else None)


def _ending(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _work(connection: Connection, work: Work, device: str, openers: int, computing: int) -> None:
    """What a process does: take shards from the pipe until None comes, and put scored batches into it.

    If the parent dies, the pipe ends, and so does this.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends its processes
    if torch.device(device).type == "cpu":
        torch.set_num_threads(computing)
    try:
        for batch in work.load_scorer(device, openers).score(iter(connection.recv, None)):
            connection.send(batch)
        connection.send(None)
    except (EOFError, BrokenPipeError):
        os._exit(1)
    except RewardCoreError as error:
        connection.send(str(error))
    except Exception as error:
        connection.send(exhausted(error) or traceback.format_exc())
    finally:
        connection.close()
        os._exit(0)  # a thread may still wait for the next shard
