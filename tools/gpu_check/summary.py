"""One page from results.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

WIDTH = 108
EXTRA_LINES = 22  # of kernels.txt and syncs.txt each


def summary(out: Path) -> str:
    """Return the summary of all stages whose results are in a folder."""
    rows = read_results(out)
    lines = [*headline(rows), "stage        exit  seconds"]
    lines += [
        f"{row['stage']:<12} {row['code']:>4} {row['seconds']:>8}   {row.get('last', '')[:80]}".rstrip()
        for row in rows
        if "stage" in row
    ]
    for row in rows:
        found = row.get("result", row.get("found"))
        if found:
            lines += ["", f"[{row.get('stage', row.get('part'))}]", *wrapped(found)]
    for name in ("kernels.txt", "syncs.txt"):
        if (out / name).is_file():
            text = (out / name).read_text(encoding="utf-8").splitlines()
            lines += ["", f"[{name}]", *text[:EXTRA_LINES]]
    return "\n".join(lines) + "\n"


def read_results(out: Path) -> list[dict[str, Any]]:
    """Return the rows of results.jsonl but those that were cut off when their stage was killed."""
    rows = []
    for line in (out / "results.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def headline(rows: list[dict[str, Any]]) -> list[str]:
    """Return what most users want to know: images a second, and the share of the card's own rate."""
    parts = {row["part"]: row["found"] for row in rows if "part" in row}
    lines = []
    gpu = parts.get("versions", {}).get("gpu")
    if gpu:
        lines.append(f"{gpu}, torch {parts['versions']['torch']}")
    first = parts.get("batch size 1, float32, 35 tokens", {}).get("images_per_s")
    limit = parts.get("matmul, TFLOP/s", {}).get("bf16")
    for name, found in parts.items():
        if "images_per_s" in found:
            text = f"{name}: {found['images_per_s']} images/s"
            if first:
                text += f", {found['images_per_s'] / first:.1f} times batch size 1"
            if limit and "tflops" in found:
                text += f", {found['tflops'] / limit:.0%} of the bf16 rate"
            lines.append(text)
        elif "rows_per_s" in found:
            lines.append(f"{name}: {found['rows_per_s']} files/s")
    return [*lines, ""] if lines else []


def wrapped(found: dict[str, Any]) -> Iterator[str]:
    line = ""
    for key, value in flat(found):
        item = f"{key}={round(value, 3) if isinstance(value, float) else value}"[:200]
        if line and len(line) + len(item) > WIDTH:
            yield "  " + line.rstrip()
            line = ""
        line += item + "  "
    if line:
        yield "  " + line.rstrip()


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested dicts with dotted keys; lists are left out."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif not isinstance(value, list):
        yield prefix, value
