"""Published VLM judges. They load without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..model_spec import ModelSpec
from ..names import match_name
from ..scorer_facts import License, ScorerFacts

JUDGE_FAMILY = "reward_core.models.judges.loading:JudgeLoader"
_OWNER = "CodeGoat24"
_NAME = "UnifiedReward-2.0"
_DEFAULT_SIZE = "qwen-7b"
# The published sizes, with their parameters in billions.
_SIZES = {
    **{"qwen-3b": 3, "qwen-7b": 7, "qwen-32b": 32, "qwen-72b": 72},
    **{"qwen3vl-2b": 2, "qwen3vl-4b": 4, "qwen3vl-8b": 8, "qwen3vl-32b": 32, "qwen35-9b": 9},
}


@dataclass(frozen=True)
class JudgeConfig:
    """A vision-language model and its question.

    Attributes:
        model: hub repository or folder of the model, or its name on a server.
        template: name of the template; empty if the caller must give one.
        server_fields: further fields of the requests to a server.
    """

    model: str
    template: str = ""
    server_fields: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values for JSON."""
        return {**vars(self), "server_fields": dict(self.server_fields)}


_FACTS = ScorerFacts(
    "mean of alignment, coherence and style, rated by a VLM (Qwen2.5-VL-7B)",
    parameters=8_292_166_656,
    gigabytes=16.6,
    hardware="a server, or GPU with 24 GB (unmeasured)",
    score_range="1 to 5",
    training_data="preferences and ratings of images and videos",
    code_license=License("MIT", "https://github.com/CodeGoat24/UnifiedReward"),
    differentiable=False,
    citation="arXiv 2503.05236",
)


def _judge(size: str, template: str, facts: ScorerFacts) -> ModelSpec:
    thinks = size.startswith("qwen35")  # unless it is asked not to
    fields = {"chat_template_kwargs": {"enable_thinking": False}} if thinks else {}
    config = JudgeConfig(f"{_OWNER}/{_NAME}-{size}", template, fields)
    return ModelSpec(JUDGE_FAMILY, {}, config, facts)


JUDGES: dict[str, ModelSpec] = {
    _NAME: _judge(_DEFAULT_SIZE, _NAME, _FACTS),
    f"{_NAME}-pairwise": _judge(
        _DEFAULT_SIZE,
        f"{_NAME}-pairwise",
        replace(
            _FACTS,
            summary="share of comparisons won against the other images of the prompt",
            score_range="0 to 1",
            comparable_across_prompts=False,
        ),
    ),
}

# Other sizes load by name, but are not listed.
_OTHER_SIZES = {
    f"{_NAME}-{size}": _judge(
        size,
        _NAME,
        replace(
            _FACTS,
            summary=f"UnifiedReward-2.0 of size {size}",
            parameters=billions * 10**9,
            gigabytes=2.0 * billions,
            hardware="a server, or GPU",
        ),
    )
    for size, billions in _SIZES.items()
}


def other_judge(name: str) -> tuple[str, ModelSpec] | None:
    """Return name and specification of a size of UnifiedReward-2.0, by its name with or without the owner."""
    known = match_name(name.removeprefix(f"{_OWNER}/"), _OTHER_SIZES)
    return None if known is None else (known, _OTHER_SIZES[known])


def any_vlm(name: str) -> ModelSpec:
    """Return the specification of a judge with any model and a template of the caller.

    Args:
        name: hub repository or folder, or name on a server.
    """
    facts = ScorerFacts(
        f"answers of {name}", 0, 0.0, "depends on the model", "that of the template", "unknown",
        differentiable=False,
    )  # fmt: skip
    return ModelSpec(JUDGE_FAMILY, {}, JudgeConfig(name), facts)
