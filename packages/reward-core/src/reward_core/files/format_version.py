"""Format versions: written into each document and checked when it is read."""

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
        document: the document, a JSON object.
        current: format version that this release writes and reads.
        name: name of the file or folder in the error.
        what_to_do: a sentence with advice for an older format.
        error: class of the error.
        absent: version of documents without a version.
    """
    version = document.get(FORMAT_VERSION, absent)
    if type(version) is int and version == current:
        return
    if type(version) is int and version > current:
        what_to_do = f"A newer version wrote it: update reward-core, refl and reward-benchmark. {what_to_do}"
    raise error(
        f"Cannot read '{name}': it has format {version!r:.40}, this version reads format {current}. "
        f"{what_to_do}"
    )
