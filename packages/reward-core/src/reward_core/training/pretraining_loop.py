"""The training loop of the pre-training stages, which only models trained from scratch need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .float32_attention import use_float32_attention
from .optimizers import build_optimizers, rate_at, set_rates

Batch = Any  # the second argument of the loss


@dataclass(frozen=True)
class PretrainingConfig:
    """The settings of a pre-training stage.

    Attributes:
        steps: number of steps.
        lr, muon_lr: peak learning rates of AdamW, and of Muon for the encoders' matrices (torch 2.9 or
            later); muon_lr=0 uses AdamW for all parameters.
        warmup_steps: steps in which the rates rise to their peak; then they decay to 0 along a cosine.
        betas: of AdamW.
        weight_decay: of AdamW.
        clip: maximum gradient norm.
        precision: "float32", or "bfloat16" for torch's autocast (weights stay float32).
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
            raise ValueError(f"Cannot use precision={self.precision!r}: it must be 'float32' or 'bfloat16'.")


def pretrain(
    model: nn.Module,
    batches: Iterable[Batch],
    config: PretrainingConfig,
    loss: Callable[[Any, Batch], Tensor],
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train the parameters that require gradients, in place, for ``config.steps`` batches.

    A loaded model is frozen: first call ``requires_grad_()`` on it or on the parts to train. Afterwards
    the model is in evaluation mode.

    Args:
        model: the first argument of ``loss``.
        batches: the second arguments of ``loss``.
        config: the settings.
        loss: (model, batch) -> scalar.
        on_step: called after each step with its number (from 1) and its loss.

    Raises:
        ValueError: all parameters are frozen, or there are too few batches.
        FloatingPointError: the loss is NaN or infinite.
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
            raise FloatingPointError(
                f"Cannot continue training: the loss is {value.item()} at step {step}. Lower the "
                "learning rate."
            )
        model.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        for optimizer in optimizers:
            optimizer.step()
        if on_step is not None:
            on_step(step, value.item())
    if step < config.steps:
        raise ValueError(f"Cannot take {config.steps} steps: there are only {step} batches.")
    model.eval()
