"""Identity of the model behind a score: a short name for people and a unique id."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from .model_spec import WEIGHTS_FILE
from .registry import find_spec

LONGEST_NAME = 60  # so that "NAME Score Prompt" fits into a keyword of PNG
_GENERIC_FILES = ("model", "pytorch_model")  # weights files with these names are called after their folder


@dataclass(frozen=True)
class ModelIdentity:
    """Name and identity of a model, as stored with its scores.

    Attributes:
        name: short name, with characters allowed in names of scores.
        identity: equal only for the same model. For local models it includes a hash of the weights.
    """

    name: str
    identity: str

    @property
    def score_key(self) -> str:
        """Default name of this model's scores."""
        return f"{self.name} Score"


def identify(
    name_or_path: str | os.PathLike[str], template: str | os.PathLike[str] | None = None
) -> ModelIdentity:
    """Return the identity of a model without loading it.

    Args:
        name_or_path: argument of ``load``: a known name, a local folder or file, or a hub repository.
        template: template of a VLM judge, by name or file, if it is not the judge's usual one.
    """
    model = _identify_model(name_or_path)
    if template is None:
        return model
    path = Path(os.fsdecode(template))
    title, content = (path.stem, f"@{_hash(path)}") if path.is_file() else (str(path), "")
    return ModelIdentity(_short(f"{model.name} {title}"), f"{model.identity} {_short(title)}{content}")


def _identify_model(name_or_path: str | os.PathLike[str]) -> ModelIdentity:
    model = os.fsdecode(name_or_path)
    known = find_spec(model)
    if known is not None:
        return ModelIdentity(_short(known[0]), _short(known[0]))
    if not os.path.exists(model):
        return ModelIdentity(_short(model.rsplit("/", 1)[-1]), _allowed(model))
    weights, name = _weights_of(model), _short(local_name(model))
    return ModelIdentity(name, f"{name}@{_hash(weights)}")


def local_name(model: str) -> str:
    """Return the name of a local model: that of its folder, or of its file without the extension."""
    weights = _weights_of(model)
    return weights.parent.name if weights.stem in _GENERIC_FILES else weights.stem


def _weights_of(model: str) -> Path:
    path = Path(model).resolve()
    return path / WEIGHTS_FILE if path.is_dir() else path


def _short(name: str) -> str:
    name = _allowed(name)[:LONGEST_NAME].rstrip() or "model"
    return "ImageReward" if re.fullmatch(r"ImageReward-v1(\.0)?", name) else name


def _allowed(name: str) -> str:
    """Replace or drop the characters that are not allowed in names of scores."""
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
        return "unreadable"  # load raises the error before anything is scored
    return digest.hexdigest()[:12]
