"""Which model made a score: a short name for people, and an identity that distinguishes two models."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

LONGEST_NAME = 60  # so that "NAME Score Prompt" fits into a PNG text's name
_GENERIC_FILES = ("model", "pytorch_model")  # a weights file so named is known by its folder


@dataclass(frozen=True)
class ModelIdentity:
    """A model as the scores that it made name it.

    Attributes:
        name: short, of the characters that the name of a score may have.
        identity: equal for the same model only. A local model's has a hash of its weights.
    """

    name: str
    identity: str

    @property
    def score_key(self) -> str:
        """The name of this model's scores, if the user gives no other."""
        return f"{self.name} Score"


def identify(name_or_path: str | os.PathLike[str]) -> ModelIdentity:
    """Return the identity of what ``load`` would load, without loading it.

    Args:
        name_or_path: as for ``load``: a known name, a local folder or file, or the id of a hub repository.
    """
    from .checkpoint import WEIGHTS_FILE
    from .registry import BUNDLED_MODELS, REWARD_MODELS

    given = os.fsdecode(name_or_path)
    if given in REWARD_MODELS or given in BUNDLED_MODELS:
        return ModelIdentity(_short(given), _short(given))
    if not os.path.exists(given):
        return ModelIdentity(_short(given.rsplit("/", 1)[-1]), _allowed(given))
    path = Path(given).resolve()
    weights = path / WEIGHTS_FILE if path.is_dir() else path
    name = weights.parent.name if weights.stem in _GENERIC_FILES else weights.stem
    return ModelIdentity(_short(name), f"{_short(name)}@{_hash(weights)}")


def _short(name: str) -> str:
    name = _allowed(name)[:LONGEST_NAME].rstrip() or "model"
    return "ImageReward" if re.fullmatch(r"ImageReward-v1(\.0)?", name) else name


def _allowed(name: str) -> str:
    """Return a name with the characters that the name of a score may have, and no others."""
    name = re.sub(r"[^A-Za-z0-9 \-_.()/]", "_", name)
    return " ".join(re.sub(r"^[^A-Za-z0-9]+", "", name).split())


def _hash(weights: Path) -> str:
    if not weights.is_file():  # opening a pipe would wait for its writer
        return "unreadable"
    digest = hashlib.sha256()
    try:
        with weights.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return "unreadable"  # load raises the error, before anything is scored
    return digest.hexdigest()[:12]
