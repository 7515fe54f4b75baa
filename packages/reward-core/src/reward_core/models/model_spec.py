"""Specification of a scorer: its code, its files, its configuration and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..hub.file_specs import FileSpec, HubFile, WebFile
from .scorer_facts import ScorerFacts

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"

# BERT's vocabulary, for models without a tokenizer in their folder.
VOCABULARY = HubFile(
    "google-bert/bert-base-uncased", "vocab.txt", fallback_repo_id="bert-base-uncased", size="232 kB"
)


class ModelConfig(Protocol):
    """The configuration of a model, a frozen dataclass."""

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Part:
    """A file that a scorer needs: weights, a head, a configuration, a tokenizer.

    Attributes:
        source: where the file is published; None for a file that only folders of local files may have.
        names: accepted file names in a folder of local files, in order, the published one first. A name may
            have * for any characters; it is that of the first file in alphabetical order.
        subfolder: subfolder of local files in which the part may be too. The name of the part and the name of
            its hub repository are always accepted as subfolders.
        required: whether the scorer cannot be loaded without the part. A part that is not required is not
            downloaded.
        fetched_if_missing: whether a part that is missing in a folder of local files is downloaded. For small
            files only. Without a network the scorer is loaded without it.
    """

    source: FileSpec | None
    names: tuple[str, ...]
    subfolder: str = ""
    required: bool = True
    fetched_if_missing: bool = False

    def subfolders(self, part_name: str) -> list[str]:
        """Return the subfolders in which the part is searched, the most specific first; "" comes last."""
        repository = self.source.repo_id.rpartition("/")[2] if isinstance(self.source, HubFile) else ""
        return [*dict.fromkeys(filter(None, (self.subfolder, repository, part_name))), ""]


# The files of a folder that save_pretrained wrote.
SAVED_PARTS: Mapping[str, Part] = {
    "weights": Part(None, (WEIGHTS_FILE,)),
    "config": Part(None, (CONFIG_FILE,), required=False),
    "tokenizer": Part(None, ("tokenizer.json", "vocab.txt"), required=False),
}


@dataclass(frozen=True)
class ModelSpec:
    """A scorer that can be loaded by name.

    Attributes:
        family: "module:Object" of the class that loads it, imported when the scorer is loaded. The class has
            ``load_files(files, options)``, as `Pretrained` does.
        parts: the files by role; empty for a VLM judge, whose files are needed only without a server.
            Otherwise "weights" must be there; "config" and "tokenizer" have their usual meaning,
            all other roles are the family's.
        config: configuration that matches the published weights; None if it is read from the part "config".
            A part "config" in a folder of local files replaces the sizes.
        facts: what is known about the scorer.
        model_type: "model_type" in the config.json of saved folders; they load by it. Empty if models of the
            family cannot be saved.
    """

    family: str
    parts: Mapping[str, Part] = field(hash=False)
    config: ModelConfig | None
    facts: ScorerFacts
    model_type: str = ""

    def downloads(self) -> list[HubFile | WebFile]:
        """Return the files to download, the weights first; empty for bundled scorers and judges."""
        sources = [part.source for part in self.parts.values() if part.required]
        return [source for source in sources if isinstance(source, (HubFile, WebFile))]
