"""Settings of a stage, its results, and the time of a call."""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch


@dataclass(frozen=True)
class Stage:
    """The settings of a stage.

    Attributes:
        device: device to measure.
        full: whether to measure at full size.
        out: folder of results.jsonl.
        work: folder for temporary files.
    """

    device: torch.device
    full: bool
    out: Path
    work: Path

    @classmethod
    def from_command_line(cls) -> Stage:
        parser = argparse.ArgumentParser()
        parser.add_argument("--device", required=True)
        parser.add_argument("--size", required=True)
        parser.add_argument("--out", type=Path, required=True)
        parser.add_argument("--work", type=Path, required=True)
        args = parser.parse_args()
        if args.device == "cuda" and not torch.cuda.is_available():
            raise SystemExit("Cannot use device 'cuda': torch finds no GPU. Use --device cpu.")
        torch.manual_seed(0)
        return cls(torch.device(args.device), args.size == "full", args.out, args.work)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def batch(self) -> int:
        """Images in a batch."""
        return 64 if self.full else 4

    @contextmanager
    def finding(self, part: str) -> Iterator[dict[str, Any]]:
        """Yield a dict that is appended to results.jsonl, with the error if there was one."""
        found: dict[str, Any] = {}
        started = perf_counter()
        try:
            yield found
        except Exception as error:  # one failed measurement must not stop the others
            traceback.print_exc()
            first_line = (str(error).splitlines() or [""])[0]
            found["error"] = f"{type(error).__name__}: {first_line}"[:300]
        found["took_s"] = round(perf_counter() - started, 1)
        with (self.out / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"part": part, "found": found}) + "\n")
        print(part, json.dumps(found), flush=True)
        if self.on_gpu:
            try:
                torch.cuda.empty_cache()
            except RuntimeError:  # a failed measurement may leave the allocator in any state
                traceback.print_exc()

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the seconds of one call, including the GPU's work."""
        self.synchronize()
        started = perf_counter()
        work()
        self.synchronize()
        return perf_counter() - started

    def median_seconds(self, work: Callable[[], object], at_least: float = 0.15) -> float:
        """Return the median seconds of a call.

        Short calls are launched in a row before the wait for the GPU.

        Args:
            work: the call.
            at_least: seconds that all calls together take at full size.
        """
        work()
        in_a_row = max(1, min(50, int(0.02 / max(self.seconds(work), 1e-6))))

        def row() -> None:
            for _ in range(in_a_row):
                work()

        at_least = at_least if self.full else 0.0
        times: list[float] = []
        began = perf_counter()
        while len(times) < 3 or perf_counter() - began < at_least:
            times.append(self.seconds(row) / in_a_row)
        return sorted(times)[len(times) // 2]
