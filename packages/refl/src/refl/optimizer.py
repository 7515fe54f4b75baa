"""AdamW and the learning-rate schedule of a run."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from reward_core.runs.cuda import fused_option

from .config import TrainConfig
from .errors import ConfigError


def make_optimizer(config: TrainConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    settings = config.optimizer
    fused: dict[str, Any] = fused_option(parameters)
    kind: Any = partial(torch.optim.AdamW, **fused)
    if settings.eight_bit:
        try:
            from bitsandbytes.optim import AdamW8bit

            kind = AdamW8bit
        except ImportError as error:
            raise ConfigError(
                "Cannot use optimizer.eight_bit: bitsandbytes is not installed. Run "
                "`pip install bitsandbytes`."
            ) from error

    return kind(
        parameters,
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )


def make_lr_schedule(config: TrainConfig, optimizer: torch.optim.Optimizer) -> Any:
    from diffusers.optimization import get_scheduler

    settings = config.optimizer
    name = settings.schedule
    if name == "constant" and settings.warmup_steps:  # diffusers' "constant" ignores the warm-up
        name = "constant_with_warmup"
    return get_scheduler(
        name,
        optimizer,
        num_warmup_steps=settings.warmup_steps,
        num_training_steps=config.run.steps,
    )
