"""What a suite is: one or two tables, each of groups of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Group:
    """Images of one prompt, of one generator or ranked among each other.

    ranks: one an image, 1 is best, for preference parts; generator: for generator parts.
    names: what the rows of scores call the images, relative to the suite's data.
    """

    id: str
    prompt: str
    images: tuple[Path, ...]
    names: tuple[str, ...]
    ranks: tuple[int, ...] | None = None
    generator: str | None = None


@dataclass(frozen=True)
class Part:
    """One table.

    kind: "generators" (Table 1: which generator is liked) or "preference" (Table 3: which image).
    reference: generator -> rank, 1 is best; None where ``reference_scorer`` ranks them.
    reference_scorer: the scorer whose ranks are the reference (ShapesBench: the oracle).
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
        return list(dict.fromkeys(g.generator for g in self.groups if g.generator is not None))

    @property
    def images(self) -> int:
        return sum(len(group.names) for group in self.groups)


@dataclass(frozen=True)
class SuiteOptions:
    """data: folder of the images. limit: prompts at most (None: all). generators: names, or ("default",)
    or ("all",). offline: never touch the network."""

    data: Path
    limit: int | None = None
    generators: Sequence[str] = ("default",)
    offline: bool = False
