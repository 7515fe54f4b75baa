"""The results of a run: the typed contents of summary.json.

The JSON calls images "pictures", for compatibility with older files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from reward_core.files.format_version import FORMAT_VERSION

from .json_record import CURRENT_FORMAT, JsonObject, JsonRecord, json_object, key, path
from .metrics import GeneratorTable, Interval, PairedComparison, PreferenceTable


@dataclass(frozen=True)
class PublishedValue(JsonRecord):
    """A value of the paper, compared with the measured one.

    Attributes:
        value: the paper's value.
        difference: the measured value minus the paper's.
        reproduced: whether the difference is within the tolerance.
        meaning: what the paper's value is, such as "mean score".
    """

    value: float
    difference: float
    reproduced: bool
    meaning: str


def published_value(value: float, published: float, tolerance: float, meaning: str) -> PublishedValue:
    """Compare a measured value with the published one."""
    difference = value - published
    return PublishedValue(published, difference, abs(difference) <= tolerance + 1e-9, meaning)


@dataclass(frozen=True)
class PublishedPreference(JsonRecord):
    """The paper's row of Table 3.

    ``recall`` and ``filter`` (k -> share) are from prompts that were not published.
    """

    pooled_accuracy: PublishedValue
    per_prompt_accuracy: PublishedValue
    recall: dict[int, float]
    filter: dict[int, float]


@dataclass(frozen=True)
class PreferenceResult(JsonRecord):
    """A scorer's row of Table 3, with the paper's. One flat object in JSON."""

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
    """A scorer's Table 1, with the paper's values. One flat object in JSON.

    Attributes:
        table: the measured table.
        published: generator -> the paper's mean score.
        published_spearman: the paper's correlation with people; None if it has none.
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
    """The paper's values inside the JSON of a table."""

    generators: dict[str, _PublishedGenerator]
    published_spearman: float | None = None


@dataclass(frozen=True)
class Agreement(JsonRecord):
    """Spearman's correlation between two scorers, averaged over groups."""

    first: str
    second: str
    spearman: float
    groups: int


@dataclass(frozen=True)
class PreferenceComparison(JsonRecord):
    """A ``PairedComparison`` with the names of the scorers."""

    first: str
    second: str
    difference: Interval
    p_value: float
    pairs: int

    @classmethod
    def of(cls, first: str, second: str, comparison: PairedComparison) -> PreferenceComparison:
        """Add the names of the scorers to a comparison."""
        return cls(first, second, comparison.difference, comparison.p_value, comparison.pairs)


@dataclass(frozen=True)
class SpearmanComparison(JsonRecord):
    """Difference of two scorers' Spearman correlations with the reference."""

    first: str
    second: str
    difference: Interval


@dataclass(frozen=True, kw_only=True)
class _PartSummary(JsonRecord):
    """The fields of every part; ``failed`` is image -> reason why it has no score."""

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
    """Table 3: which image people prefer. ``scorers`` keeps the order of the run."""

    kind: Literal["preference"] = "preference"
    scorers: dict[str, PreferenceResult]
    comparisons: tuple[PreferenceComparison, ...]


@dataclass(frozen=True, kw_only=True)
class GeneratorsSummary(_PartSummary):
    """Table 1: which generator people prefer.

    Attributes:
        scorers: scorer -> result, in the order of the run.
        reference: generator -> reference rank, 1 is best; None for a generator without a rank.
        reference_wins: generator -> wins in people's comparisons; None for a part without them.
        judge: origin of the reference ranks: "people" or the name of a scorer.
        titles: generator -> name for readers.
        comparisons: differences between scorers.
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
    """The results of a run, the contents of summary.json.

    Attributes:
        suite: name of the suite.
        limit: maximum number of prompts; None: all.
        data: folder of the images.
        environment: name -> value of devices, precision and versions.
        parts: the tables.
    """

    suite: str
    limit: int | None
    data: str
    environment: dict[str, str]
    parts: tuple[PartSummary, ...]

    @property
    def failed(self) -> dict[str, str]:
        """Image -> reason why it has no score, over all parts."""
        return {image: error for part in self.parts for image, error in part.failed.items()}

    def to_json(self) -> JsonObject:
        return {FORMAT_VERSION: CURRENT_FORMAT, **super().to_json()}
