"""What is known of a published model: its files and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ..hub.file_specs import HubFile, WebFile

# BERT's, for models without a tokenizer beside their weights.
VOCABULARY = HubFile(
    "google-bert/bert-base-uncased", "vocab.txt", fallback_repo_id="bert-base-uncased", size="232 kB"
)


class ModelConfig(Protocol):
    """The configuration of a family, a frozen dataclass."""

    @property
    def max_length(self) -> int: ...

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ModelSpec:
    """A published model: weights, the configuration they need, and one line for listings.

    head: a second file, of the layers that stand on the first one's features, and ``head_widths``.
    vocabulary: where the tokenizer comes from when it does not lie beside the weights.
    """

    weights: HubFile | WebFile
    config: ModelConfig
    description: str
    vocabulary: HubFile | None = None
    head: WebFile | None = None
    head_widths: tuple[int, ...] = ()
