"""Where the weights of a model come from: a name, a commit of the hub, a checksum."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ModelSource:
    """The origin of a loaded model, for results and cards.

    Attributes:
        name: registered name, hub repository, folder or file.
        weights: files with weights on this machine.
    """

    name: str
    weights: tuple[Path, ...]

    @cached_property
    def revision(self) -> str:
        """Commit of the hub repository of the first weights; "" for files outside the hub's cache."""
        return hub_commit(self.weights[0])

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weights; "" if they cannot be read. Files of the hub's cache are not read again."""
        digests = [_file_sha256(path) for path in self.weights]
        if len(digests) == 1 or not all(digests):
            return digests[0] if all(digests) else ""
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def to_dict(self) -> dict[str, str]:
        """Return name, revision and sha256, as stored in results."""
        return {"name": self.name, "revision": self.revision, "sha256": self.sha256}

    def __str__(self) -> str:
        version = f"revision {self.revision[:12]}" if self.revision else f"sha256 {self.sha256[:12]}"
        return f"{self.name} ({version})"


def hub_commit(path: Path) -> str:
    """Return the commit of a file in the hub's cache, .../snapshots/COMMIT/...; "" for other files."""
    parts = path.parts
    for i, part in enumerate(parts[:-2]):
        if part == "snapshots" and i and parts[i - 1].startswith("models--"):
            return parts[i + 1]
    return ""


def _file_sha256(path: Path) -> str:
    try:
        blob = path.resolve()
        if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):  # the hub's name of large files
            return blob.name
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
    except OSError:
        return ""
