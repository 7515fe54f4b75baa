"""What a checkpoint stores, and which runs may resume from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from reward_core.runs.checkpoint_folder import Trained

from .config import TrainConfig
from .config.checks import CONSTANT_SCHEDULES
from .config.strategy import SRPO_SETTINGS
from .data.captioned_images import CaptionedImages
from .objectives.objective import Objective


def what_is_trained(objective: Objective, optimizer: Any, lr_schedule: Any) -> Trained:
    """Return the parts of a checkpoint: weights and their average, optimizer, learning-rate schedule."""
    trainable = objective.trainable

    def numbers() -> dict[str, Any]:
        schedule = lr_schedule.state_dict()
        schedule.pop("lr_lambdas", None)  # functions, recreated from the settings
        return {"schedule": schedule, "ema": trainable.numbers(), "objective": objective.numbers()}

    def load_numbers(saved: dict[str, Any]) -> None:
        lr_schedule.load_state_dict({**lr_schedule.state_dict(), **saved["schedule"]})
        trainable.load_numbers(saved["ema"])
        objective.load_numbers(saved["objective"])

    accelerator = objective.accelerator
    return Trained(accelerator, trainable.tensors, trainable.load_tensors, [optimizer], numbers, load_numbers)


def fingerprint(
    config: TrainConfig,
    prompts: Sequence[str],
    validation: Sequence[str],
    captioned: CaptionedImages | None,
) -> str:
    """Return a hash of the settings and data that a resumed run must share with the interrupted one.

    Args:
        prompts: training prompts.
        validation: validation prompts.
        captioned: captioned images; only names and sizes are hashed, since reading them would take long.
    """
    digest = hashlib.sha256(json.dumps(decisive_settings(config), sort_keys=True).encode())
    digest.update(json.dumps([list(prompts), list(validation)]).encode())
    for entry in captioned.entries if captioned is not None else ():
        digest.update(json.dumps([entry.name, entry.size]).encode())
    return digest.hexdigest()[:16]


def decisive_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings, by section, that affect the result of a run."""
    document = config.to_dict()
    for name in ("out", "checkpoint_every", "checkpoints", "trackers", "push_to_hub", "cpu"):
        document["run"].pop(name)
    for name in ("no_grad_graphs", "gradient_graphs"):  # results are the same, or differ by rounding
        document["rollout"].pop(name)
    if config.optimizer.schedule in CONSTANT_SCHEDULES:  # earlier steps are the same in a longer run
        document["run"].pop("steps")
    if config.strategy.name != "srpo":  # runs from before this strategy resume
        for name in SRPO_SETTINGS:
            document["strategy"].pop(name)
    return document
