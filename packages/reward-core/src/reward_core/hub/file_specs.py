"""Where a published file is: in a repository of the hub or at a plain address."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HubFile:
    """A file in a model repository of the hub; ``fallback_repo_id`` is the repository's former name."""

    repo_id: str
    filename: str
    revision: str | None = None
    fallback_repo_id: str | None = None


@dataclass(frozen=True)
class WebFile:
    """A file at a plain address.

    Attributes:
        max_bytes: a larger file is not downloaded; None: MAX_DOWNLOAD_BYTES.
    """

    url: str
    filename: str
    sha256: str | None = None
    max_bytes: int | None = None
