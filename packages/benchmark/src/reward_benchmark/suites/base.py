"""Data types of a suite: one or two parts (tables), each with groups of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Group:
    """Images of one prompt.

    Attributes:
        id: id of the prompt.
        prompt: the prompt.
        images: paths of the images.
        names: names of the images in scores.jsonl, relative to the suite's data folder.
        ranks: rank of each image, 1 is best, in preference parts; else None.
        generator: generator of the images, in generator parts; else None.
    """

    id: str
    prompt: str
    images: tuple[Path, ...]
    names: tuple[str, ...]
    ranks: tuple[int, ...] | None = None
    generator: str | None = None


@dataclass(frozen=True)
class Part:
    """One table of a suite.

    Attributes:
        name: name in files.
        title: name for readers.
        kind: "generators" (Table 1: which generator is preferred) or "preference" (Table 3: which image).
        groups: the images.
        reference: generator -> reference rank, 1 is best; None if ``reference_scorer`` gives the ranks.
        reference_scorer: scorer whose ranks are the reference (ShapesBench: the oracle).
        titles: generator -> name for readers.
        revision: origin and version of the data.
    """

    name: str
    title: str
    kind: str
    groups: tuple[Group, ...]
    reference: dict[str, float] | None = None
    reference_scorer: str | None = None
    titles: dict[str, str] = field(default_factory=dict)
    revision: str = ""

    @property
    def generators(self) -> list[str]:
        """Names of the generators, in the order of the groups."""
        return list(dict.fromkeys(g.generator for g in self.groups if g.generator is not None))

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(len(group.names) for group in self.groups)


@dataclass(frozen=True)
class SuiteOptions:
    """Options for building a suite.

    Attributes:
        data: folder of the images.
        limit: maximum number of prompts; None: all.
        generators: names of generators, ("default",) or ("all",).
        offline: use local files only.
    """

    data: Path
    limit: int | None = None
    generators: Sequence[str] = ("default",)
    offline: bool = False
