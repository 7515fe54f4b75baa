"""Specifications of published files: in a repository of the hub or at a URL."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HubFile:
    """A file in a model repository of the hub.

    Attributes:
        fallback_repo_id: former name of the repository.
    """

    repo_id: str
    filename: str
    revision: str | None = None
    fallback_repo_id: str | None = None


@dataclass(frozen=True)
class WebFile:
    """A file at a URL.

    Attributes:
        max_bytes: largest size to download; None for MAX_DOWNLOAD_BYTES.
    """

    url: str
    filename: str
    sha256: str | None = None
    max_bytes: int | None = None
