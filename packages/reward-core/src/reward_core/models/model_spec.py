"""Specification of a published model: its files and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ..hub.file_specs import HubFile, WebFile

# BERT's vocabulary, for models without a tokenizer in their folder.
VOCABULARY = HubFile(
    "google-bert/bert-base-uncased", "vocab.txt", fallback_repo_id="bert-base-uncased", size="232 kB"
)


class ModelConfig(Protocol):
    """The configuration of a model, a frozen dataclass."""

    @property
    def max_length(self) -> int: ...

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ModelSpec:
    """A published model.

    Attributes:
        weights: weights file.
        config: configuration that matches the weights.
        description: one line for listings.
        vocabulary: tokenizer file, for weights without a tokenizer in their folder.
        head: weights of a head on the features of the model, if any.
        head_widths: layer widths of the head.
    """

    weights: HubFile | WebFile
    config: ModelConfig
    description: str
    vocabulary: HubFile | None = None
    head: WebFile | None = None
    head_widths: tuple[int, ...] = ()
