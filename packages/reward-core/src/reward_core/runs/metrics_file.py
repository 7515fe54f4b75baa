"""metrics.jsonl: what a run measured, one line a step."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"


class MetricsFile:
    """One line a step; lines after the step that a run goes on from are dropped."""

    def __init__(self, path: Path):
        self.path = path

    def keep_until(self, step: int) -> None:
        if self.path.is_file():
            rows = [row for row in self.read() if row["step"] <= step]
            temporary = self.path.with_name(f".{self.path.name}")
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            os.replace(temporary, self.path)

    def add(self, row: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: v for k, v in row.items() if _is_finite(v)}) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All whole lines."""
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
