"""JSON files: read with an error that names the file, written whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, RewardCoreError
from .atomic_write import write_text
from .foreign_bytes import read_regular, reason
from .limits import MB, Limit
from .tables import TableBudget

# Bytes of a JSON file: a million rows of scores or rankings. MAX_VALUES bounds the memory that they take.
MAX_JSON_BYTES = Limit("MAX_JSON_BYTES", 256 * MB)
# Lists and objects in each other. Files of this project use 6; Python's repr fails at some hundreds.
MAX_JSON_DEPTH = 100
# Digits of a whole number: every number below is a finite float.
MAX_DIGITS = 300


def read_json(
    path: Path, most: Limit = MAX_JSON_BYTES, error: type[RewardCoreError] = CheckpointError
) -> Any:
    """Return a JSON file's content.

    Args:
        most: the largest size in bytes.
        error: what to raise.

    Raises:
        error: the file cannot be read, or it is not JSON; the message names the file.
    """
    try:
        return parse_json(read_regular(path, most).decode("utf-8"))
    except (OSError, ValueError, MemoryError) as caught:
        raise error(f"{path}: cannot be read as JSON: {reason(caught)}") from caught


def parse_json(text: str, budget: TableBudget | None = None) -> Any:
    """Return the content of a JSON text.

    Args:
        budget: of the file that the text is a part of.

    Raises:
        ValueError: it is not JSON, it holds more than MAX_VALUES values, it is nested more than
            MAX_JSON_DEPTH deep, or it has a whole number of more than MAX_DIGITS digits.
    """
    (budget or TableBudget()).take_json(text)
    try:
        content = json.loads(text, parse_int=_whole_number)
    except RecursionError as error:
        raise ValueError(_too_deep()) from error
    _check_depth(content)
    return content


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a whole number has {len(digits):,} digits, at most {MAX_DIGITS} are read")
    return int(digits)


def _check_depth(content: Any) -> None:
    level = [content] if isinstance(content, (list, dict)) else []
    for _ in range(MAX_JSON_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is list or type(inner) is dict
        ]
        if not level:
            return
    raise ValueError(_too_deep())


def _too_deep() -> str:
    return f"lists and objects are nested more than {MAX_JSON_DEPTH} deep"


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
