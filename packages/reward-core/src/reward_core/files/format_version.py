"""The version of a file format, written into each document and checked when it is read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError, RewardCoreError

FORMAT_VERSION = "format_version"


def check_format_version(
    document: Mapping[str, Any],
    current: int,
    name: object,
    what_to_do: str,
    error: type[RewardCoreError] = CheckpointError,
    absent: int = 1,
) -> None:
    """Raise an error unless a document has the current format version.

    Args:
        document: what was read, a JSON object.
        current: the version that this release writes and reads.
        name: of the file or folder, for the error.
        what_to_do: advice for an older format, a sentence.
        error: kind of error.
        absent: the version of documents that name none.
    """
    found = document.get(FORMAT_VERSION, absent)
    if type(found) is int and found == current:
        return
    if type(found) is int and found > current:
        what_to_do = f"A newer version wrote it: update reward-core, refl and reward-benchmark. {what_to_do}"
    raise error(
        f"Cannot read '{name}': it has format {found!r:.40}, this version reads format {current}. "
        f"{what_to_do}"
    )
