"""Score on several devices of this machine: one process per device reads and scores, this one writes."""

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


class DeviceProcesses(Engine):
    """An engine with one process per device.

    Processes are spawned, so a script that uses it needs ``if __name__ == "__main__"``.
    """

    def __init__(self, settings: BulkSettings):
        self.devices = [str(usable_device(device)) for device in settings.devices]
        types = sorted({torch.device(device).type for device in self.devices})
        if len(types) > 1:
            raise InputError(
                f"Cannot use the devices {', '.join(self.devices)}: devices must be of one type, got "
                f"{' and '.join(types)}."
            )
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
        running: dict[Connection, tuple[str, BaseProcess]] = {}
        openers = max(1, usable_cpus() // len(self.devices))
        compute_threads = max(1, torch.get_num_threads() // len(self.devices))
        for device in self.devices:
            parent_end, child_end = context.Pipe()
            process: BaseProcess = context.Process(
                target=_work, args=(child_end, work, device, openers, compute_threads), daemon=True
            )
            process.start()
            child_end.close()  # so that the pipe closes when the process ends
            self.processes.append(process)
            running[parent_end] = device, process
        for connection, numbers in zip(running, dealt(todo, len(running), work.shards_at_once())):
            for shard in numbers:
                _send(connection, shard)
        while running:
            for connection in cast("list[Connection]", wait(list(running))):
                device, process = running[connection]
                try:
                    message = connection.recv()
                except (EOFError, OSError) as error:
                    process.join(5)
                    raise WorkerError(
                        f"Cannot score on device {device}: its process ended unexpectedly "
                        f"({_ending(process.exitcode)}). Finished shards are kept; run the same command "
                        "again to resume."
                    ) from error
                if message is None:
                    del running[connection]
                elif isinstance(message, str):
                    raise WorkerError(f"Cannot score on device {device}: its process failed: {message}")
                else:
                    if message.last:
                        _send(connection, todo.popleft() if todo else None)
                    yield message


def dealt(todo: deque[int], workers: int, shards_at_once: int) -> list[list[int | None]]:
    """Return the first shards of each worker, in turn, so that few shards occupy all workers.

    Args:
        todo: the shards; the dealt ones are removed.
        workers: number of workers.
        shards_at_once: number of shards for each worker; None stands for one that does not exist.
    """
    hands: list[list[int | None]] = [[] for _ in range(workers)]
    for _ in range(shards_at_once):
        for hand in hands:
            hand.append(todo.popleft() if todo else None)
    return hands


def _send(connection: Connection, shard: int | None) -> None:
    """Send the number of a shard, or None if there are no more."""
    # A dead process is detected when its result is read.
    with suppress(OSError):
        connection.send(shard)


def _ending(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _work(connection: Connection, work: Work, device: str, openers: int, compute_threads: int) -> None:
    """Run a worker process: receive shard numbers until None, send scored batches.

    If the parent dies, the pipe closes and the worker exits.

    Args:
        connection: the worker's end of the pipe.
        work: the work of the run.
        device: device of the worker.
        openers: number of threads that decode images.
        compute_threads: number of torch threads on the CPU.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends the others
    torch.set_num_threads(compute_threads)
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(device)  # otherwise some calls would use memory of the first GPU
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
        os._exit(0)  # a thread may still be waiting for the next shard
