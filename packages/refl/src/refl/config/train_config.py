"""All settings of a training run, as nested frozen dataclasses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from .sections import (
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    ValidationConfig,
)
from .strategy import StrategyConfig


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run.

    ``load_config`` builds one from a preset, a YAML file and key=value settings.

    Attributes:
        model: the diffusion model and what of it is trained.
        rollout: how images are generated.
        strategy: which denoising steps carry gradient, or training without the reward's gradient.
        rewards: rewards to train on or to hold out; at least one with a weight other than 0.
        loss: the terms of the loss.
        optimizer: AdamW, its schedule and the moving average of the weights.
        validation: fixed prompts, and when to stop.
        run: length, batch size, precision, output.
        prompts: prompt file (.json, .jsonl, .csv, .tsv or .txt); empty: passed to Trainer.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    rewards: tuple[RewardConfig, ...] = (RewardConfig(),)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    run: RunConfig = field(default_factory=RunConfig)
    prompts: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain dicts and lists for YAML or JSON."""
        return _plain(dataclasses.asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value
