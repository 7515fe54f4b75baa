"""A small loop for the stages before rankings, which only models made from nothing need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .float32_attention import use_float32_attention
from .optimizers import build_optimizers, rate_at, set_rates

Batch = Any  # whatever the loss takes


@dataclass(frozen=True)
class PretrainingConfig:
    """Steps and step sizes.

    The rates are reached after ``warmup_steps`` and fall along a cosine to 0 at ``steps``.
    ``muon_lr`` is for the encoders' matrices, which Muon updates (torch 2.9 or later); 0 leaves
    them to AdamW like everything else. ``clip`` bounds the gradient's norm. ``precision`` is of the
    arithmetic: "float32", or "bfloat16" where torch's autocast thinks it safe (the weights stay float32).
    """

    steps: int
    lr: float = 1e-3
    muon_lr: float = 0.02
    warmup_steps: int = 30
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 5.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be 'float32' or 'bfloat16', got {self.precision!r}")


def pretrain(
    model: nn.Module,
    batches: Iterable[Batch],
    config: PretrainingConfig,
    loss: Callable[[Any, Batch], Tensor],
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train in place, on ``config.steps`` batches, those parameters that require gradients.

    A loaded model is frozen: call ``requires_grad_()`` on it, or on the parts to be trained. It is
    left in evaluation mode.

    Args:
        model: whatever module ``loss`` takes.
        batches: what ``loss`` takes.
        loss: (model, batch) -> scalar.
        on_step: called after each step with its number (from 1) and its loss.

    Raises:
        ValueError: nothing is to be trained, or the batches run out early. FloatingPointError: the
        loss is not a number.
    """
    optimizers = build_optimizers(
        model, config.lr, config.muon_lr, config.betas, weight_decay=config.weight_decay
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device, half = trained[0].device.type, config.precision == "bfloat16"
    if half:
        use_float32_attention(model)
    model.train()
    step = 0
    for step, batch in zip(range(1, config.steps + 1), batches):
        set_rates(optimizers, rate_at(step - 1, config.steps, config.warmup_steps))
        with torch.autocast(device, torch.bfloat16, enabled=half):
            value = loss(model, batch)
        if not value.isfinite():
            raise FloatingPointError(f"the loss is {value.item()} at step {step}; lower the learning rate")
        model.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        for optimizer in optimizers:
            optimizer.step()
        if on_step is not None:
            on_step(step, value.item())
    if step < config.steps:
        raise ValueError(f"only {step} batches for {config.steps} steps")
    model.eval()
