"""Settings of a training run: dataclasses, their checks, presets, YAML files and the original's flags."""

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
from .train_config import TrainConfig

__all__ = [
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "StrategyConfig",
    "TrainConfig",
    "ValidationConfig",
]
