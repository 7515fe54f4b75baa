"""What a run of a suite found: the typed content of summary.json.

Keys of the JSON are older than the names of the fields: "pictures" are images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from reward_core.files.format_version import FORMAT_VERSION

from .json_record import CURRENT_FORMAT, JsonObject, JsonRecord, json_object, key, path
from .metrics import GeneratorTable, Interval, PairedComparison, PreferenceTable


@dataclass(frozen=True)
class PublishedValue(JsonRecord):
    """A value of the paper beside ours.

    Attributes:
        difference: ours less the paper's.
        reproduced: whether the difference is within the tolerance.
        meaning: what the paper's value is.
    """

    value: float
    difference: float
    reproduced: bool
    meaning: str


def published_value(value: float, published: float, tolerance: float, meaning: str) -> PublishedValue:
    """Return a value of the paper beside ours."""
    difference = value - published
    return PublishedValue(published, difference, abs(difference) <= tolerance + 1e-9, meaning)


@dataclass(frozen=True)
class PublishedPreference(JsonRecord):
    """The paper's row of Table 3. recall, filter: k -> share, of another set of prompts."""

    pooled_accuracy: PublishedValue
    per_prompt_accuracy: PublishedValue
    recall: dict[int, float]
    filter: dict[int, float]


@dataclass(frozen=True)
class PreferenceResult(JsonRecord):
    """A scorer's row of Table 3, and the paper's where it has one. One flat object in JSON."""

    table: PreferenceTable
    published: PublishedPreference | None = None

    def to_json(self) -> JsonObject:
        published = {} if self.published is None else {"published": self.published.to_json()}
        return {**self.table.to_json(), **published}

    @classmethod
    def from_json(cls, content: object, where: str = "") -> PreferenceResult:
        published = json_object(content, where).get("published")
        return cls(
            PreferenceTable.from_json(content, where),
            None if published is None else PublishedPreference.from_json(published, path(where, "published")),
        )


@dataclass(frozen=True)
class GeneratorsResult(JsonRecord):
    """A scorer's Table 1, and the paper's values. One flat object in JSON.

    Attributes:
        published: generator -> the paper's mean score.
        published_spearman: the paper's correlation with people.
    """

    table: GeneratorTable
    published: dict[str, PublishedValue] = field(default_factory=dict)
    published_spearman: float | None = None

    def to_json(self) -> JsonObject:
        content = self.table.to_json()
        rows = json_object(content["generators"], "generators")
        for name, value in self.published.items():
            rows[name] = {**json_object(rows[name], name), "published": value.to_json()}
        if self.published_spearman is not None:
            content["published_spearman"] = self.published_spearman
        return content

    @classmethod
    def from_json(cls, content: object, where: str = "") -> GeneratorsResult:
        table = GeneratorTable.from_json(content, where)
        extra = _PublishedGenerators.from_json(content, where)
        published = {
            name: row.published for name, row in extra.generators.items() if row.published is not None
        }
        return cls(table, published, extra.published_spearman)


@dataclass(frozen=True)
class _PublishedGenerator(JsonRecord):
    published: PublishedValue | None = None


@dataclass(frozen=True)
class _PublishedGenerators(JsonRecord):
    """What the paper says of a table, in the JSON of that table."""

    generators: dict[str, _PublishedGenerator]
    published_spearman: float | None = None


@dataclass(frozen=True)
class Agreement(JsonRecord):
    """Spearman's correlation of two scorers within a group, averaged over ``groups`` groups."""

    first: str
    second: str
    spearman: float
    groups: int


@dataclass(frozen=True)
class PreferenceComparison(JsonRecord):
    """Two scorers' pooled accuracy, paired over the same prompts and images. Fields: `PairedComparison`."""

    first: str
    second: str
    difference: Interval
    p_value: float
    pairs: int

    @classmethod
    def of(cls, first: str, second: str, found: PairedComparison) -> PreferenceComparison:
        """Return a comparison with the names of its scorers."""
        return cls(first, second, found.difference, found.p_value, found.pairs)


@dataclass(frozen=True)
class SpearmanComparison(JsonRecord):
    """Difference of two scorers' Spearman correlation with the reference, over the same resamples."""

    first: str
    second: str
    difference: Interval


@dataclass(frozen=True, kw_only=True)
class _PartSummary(JsonRecord):
    """What every part has. failed: image -> why it has no score."""

    name: str
    title: str
    kind: str
    revision: str
    prompts: int
    images: int = field(metadata=key("pictures"))
    failed: dict[str, str]
    agreement: tuple[Agreement, ...]


@dataclass(frozen=True, kw_only=True)
class PreferenceSummary(_PartSummary):
    """Table 3: which image people prefer. scorers: in the order of the run."""

    kind: Literal["preference"] = "preference"
    scorers: dict[str, PreferenceResult]
    comparisons: tuple[PreferenceComparison, ...]


@dataclass(frozen=True, kw_only=True)
class GeneratorsSummary(_PartSummary):
    """Table 1: which generator people prefer.

    Attributes:
        reference: generator -> rank for ``judge``, 1 is best; None for one that was not ranked.
        reference_wins: generator -> wins for people; None for a part without them.
        judge: "people", or the scorer whose ranks are the reference.
        titles: generator -> name for readers.
    """

    kind: Literal["generators"] = "generators"
    scorers: dict[str, GeneratorsResult]
    reference: dict[str, float | None]
    reference_wins: dict[str, int | None] | None
    judge: str
    titles: dict[str, str]
    comparisons: tuple[SpearmanComparison, ...]


PartSummary = PreferenceSummary | GeneratorsSummary


@dataclass(frozen=True)
class SuiteSummary(JsonRecord):
    """All of a run, as in summary.json.

    Attributes:
        limit: prompts at most; None for all.
        data: folder of the images.
        environment: name -> value, what the numbers were computed with.
    """

    suite: str
    limit: int | None
    data: str
    environment: dict[str, str]
    parts: tuple[PartSummary, ...]

    @property
    def failed(self) -> dict[str, str]:
        """Image -> why it has no score, of all parts."""
        return {image: error for part in self.parts for image, error in part.failed.items()}

    def to_json(self) -> JsonObject:
        return {FORMAT_VERSION: CURRENT_FORMAT, **super().to_json()}
