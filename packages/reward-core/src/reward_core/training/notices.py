"""Lines to log before the first step of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..models.imagereward.reward_model import RewardModel
from .batch_plan import BatchPlan
from .config import TrainingConfig
from .group_reader import Usable
from .optimizers import WARMUP_SHARE


def notices(
    settings: TrainingConfig, plan: BatchPlan, model: RewardModel, splits: Mapping[str, Usable]
) -> Iterator[str]:
    """Yield a line for each thing that the run does differently than a user may expect."""
    if cut := long_prompts(model, splits):
        yield f"{cut:,} prompts are truncated to {model.config.max_length} tokens"
    if plan.warmup_steps < settings.warmup_steps:
        yield (
            f"warm-up shortened from {settings.warmup_steps:,} to {plan.warmup_steps:,} steps: at most "
            f"{WARMUP_SHARE:.0%} of the run's {len(plan.steps):,} steps"
        )


def long_prompts(model: RewardModel, splits: Mapping[str, Usable]) -> int:
    """Count the distinct prompts that the tokenizer truncates."""
    prompts = sorted({group.prompt for split in splits.values() for group in split.groups})
    encodings = model.tokenizer.fast_tokenizer.encode_batch(prompts)
    return sum(len(encoding.ids) > model.tokenizer.max_length for encoding in encodings)
