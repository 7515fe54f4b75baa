"""JSON files: read with limits, written atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, RewardCoreError
from .atomic_write import write_text
from .foreign_bytes import read_regular, reason
from .limits import MB, Limit
from .tables import TableBudget

# Largest JSON file: a million rows of scores or rankings. MAX_VALUES limits the memory of its values.
MAX_JSON_BYTES = Limit("MAX_JSON_BYTES", 256 * MB)
# Nesting depth of lists and objects. Files of this project use 6; Python's repr fails at some hundreds.
MAX_JSON_DEPTH = 100
# Number of digits of a whole number. Numbers with fewer digits are finite floats.
MAX_DIGITS = 300


def read_json(
    path: Path, most: Limit = MAX_JSON_BYTES, error: type[RewardCoreError] = CheckpointError
) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        most: largest size in bytes.
        error: class of the error to raise.

    Raises:
        error: the file cannot be read or is not JSON.
    """
    try:
        return parse_json(read_regular(path, most).decode("utf-8"))
    except (OSError, ValueError, MemoryError) as caught:
        raise error(f"Cannot read '{path}' as JSON: {reason(caught)}.") from caught


def parse_json(text: str, budget: TableBudget | None = None) -> Any:
    """Return the content of a JSON text.

    Args:
        text: the JSON text.
        budget: budget of the file that the text is part of.

    Raises:
        ValueError: the text is not JSON, has more than MAX_VALUES values, is nested more than MAX_JSON_DEPTH
            deep, or has a whole number with more than MAX_DIGITS digits.
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
    """Write ``content`` as a JSON file, atomically."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
