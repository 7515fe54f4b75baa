"""The metrics of a run in metrics.jsonl, one line per step."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files.atomic_write import write_text

METRICS = "metrics.jsonl"


class MetricsFile:
    """A file with one line of metrics per step."""

    def __init__(self, path: Path):
        self.path = path

    def keep_until(self, step: int) -> None:
        """Remove the lines after a step."""
        if self.path.is_file():
            rows = [row for row in self.read() if row["step"] <= step]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a line without its NaN and infinite values, which JSON does not have."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: v for k, v in row.items() if _is_finite(v)}) + "\n")

    def sync(self) -> None:
        """Flush all lines to the disk; a checkpoint must not have more steps."""
        if self.path.is_file():
            with self.path.open("a", encoding="utf-8") as file:
                os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """Return all complete lines."""
        rows = []
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except ValueError:  # the last line of a killed run
                    continue
        return rows


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
