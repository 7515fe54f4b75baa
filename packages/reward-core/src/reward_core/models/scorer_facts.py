"""Facts about a scorer, for listings, documentation and cards."""

from __future__ import annotations

from dataclasses import dataclass

UNKNOWN = "unknown"


@dataclass(frozen=True)
class License:
    """A license and the page that states it.

    Attributes:
        name: SPDX identifier, or "unknown" if no page states a license.
        source: URL of the page; empty if unknown.
    """

    name: str = UNKNOWN
    source: str = ""

    def in_words(self) -> str:
        """Return one line for people who download the weights."""
        if self.name == UNKNOWN:
            return "the license of the weights is unknown; ask the authors before you use them"
        return f"the license of the weights is {self.name} ({self.source})"


@dataclass(frozen=True)
class PublishedAccuracy:
    """Accuracy on pairs of images, as published.

    Attributes:
        test_set: name of the test set.
        percent: pairs in which the scorer prefers the image that people prefer, in percent.
        citation: where the number is published.
    """

    test_set: str
    percent: float
    citation: str


def published_in_hpsv3(pickscore: float, hpdv2: float, hpdv3: float) -> tuple[PublishedAccuracy, ...]:
    """Return accuracies in percent on three test sets from the table of HPSv3's README."""
    sets = {"PickScore": pickscore, "HPDv2": hpdv2, "HPDv3": hpdv3}
    citation = "README of hpsv3 1.0.0 on PyPI"
    return tuple(PublishedAccuracy(name, percent, citation) for name, percent in sets.items())


@dataclass(frozen=True)
class ScorerFacts:
    """What is known about a scorer.

    Attributes:
        summary: one line: what the scorer computes.
        parameters: number of parameters.
        gigabytes: size of all files to download, in GB (10^9 bytes).
        hardware: hardware on which the scorer is usable.
        score_range: range of the scores in a few words.
        training_data: data that the score was trained on.
        code_license: license of the authors' code.
        weights_license: license of the weights.
        higher_is_better: direction of the scores.
        comparable_across_prompts: whether scores of different prompts may be compared; None if unknown.
        reads_prompt: False if the prompt is ignored.
        differentiable: whether `rewards_from_pixels` carries gradients to the pixels.
        accuracies: published accuracies.
        citation: paper or page that describes the scorer.
    """

    summary: str
    parameters: int
    gigabytes: float
    hardware: str
    score_range: str
    training_data: str
    code_license: License = License()
    weights_license: License = License()
    higher_is_better: bool = True
    comparable_across_prompts: bool | None = None
    reads_prompt: bool = True
    differentiable: bool = True
    accuracies: tuple[PublishedAccuracy, ...] = ()
    citation: str = ""
