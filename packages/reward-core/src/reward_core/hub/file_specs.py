"""Specifications of published files: in a repository of the hub or at a URL."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HubFile:
    """A file in a model repository of the hub.

    Attributes:
        fallback_repo_id: former name of the repository.
        size: such as "1.79 GB", for messages; empty if unknown.
    """

    repo_id: str
    filename: str
    revision: str | None = None
    fallback_repo_id: str | None = None
    size: str = ""


@dataclass(frozen=True)
class WebFile:
    """A file at a URL.

    Attributes:
        max_bytes: largest size to download; None for MAX_DOWNLOAD_BYTES.
        size: such as "1.79 GB", for messages; empty if unknown.
    """

    url: str
    filename: str
    sha256: str | None = None
    max_bytes: int | None = None
    size: str = ""


def is_repo_id(name: str) -> bool:
    """Return whether a name is OWNER/NAME, and not the path of a weights file."""
    is_file_name = name.endswith((".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".json"))
    owner, _, rest = name.partition("/")
    return bool(owner and rest) and "/" not in rest and not name.startswith((".", "~")) and not is_file_name
