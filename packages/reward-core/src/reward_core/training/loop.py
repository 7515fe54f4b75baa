"""A small training loop: ranked groups in, a better reward model out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..reward_model import RewardModel
from .pairs import RankedGroup, pairwise_accuracy
from .ranking_loss import ranking_loss

Batch = Any  # whatever the loss takes


@dataclass(frozen=True)
class TrainingConfig:
    """Steps and step sizes.

    The rates are reached after ``warmup_steps`` and fall along a cosine to 0 at ``steps``.
    ``muon_rate`` is for the encoders' matrices, which Muon updates (torch 2.9 or later); 0 leaves
    them to AdamW like everything else. ``clip`` bounds the gradient's norm. ``precision`` is of the
    arithmetic: "float32", or "bfloat16" where torch's autocast thinks it safe (the weights stay float32).
    """

    steps: int
    learning_rate: float = 1e-3
    muon_rate: float = 0.02
    warmup_steps: int = 30
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 5.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be 'float32' or 'bfloat16', got {self.precision!r}")

    def rate_at(self, step: int) -> float:
        """Share of the rates at a step counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def train(
    model: nn.Module,
    batches: Iterable[Batch],
    config: TrainingConfig,
    on_step: Callable[[int, float], None] | None = None,
    loss: Callable[[Any, Batch], Tensor] | None = None,
) -> None:
    """Train in place, on ``config.steps`` batches, those parameters that require gradients.

    A loaded model is frozen: call ``requires_grad_()`` on it, or on the parts to be trained. It is
    left in evaluation mode.

    Args:
        model: a reward model, or whatever module ``loss`` takes.
        batches: sequences of RankedGroup, or what ``loss`` takes.
        on_step: called after each step with its number (from 1) and its loss.
        loss: (model, batch) -> scalar; by default the ranking loss of the groups.

    Raises:
        ValueError: nothing is to be trained, or the batches run out early. FloatingPointError: the
        loss is not a number.
    """
    loss = loss or group_loss
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("every parameter is frozen; call requires_grad_() on the parts to be trained")
    device, half = trained[0].device.type, config.precision == "bfloat16"
    model.train()
    optimizers = build_optimizers(model, config)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, config.rate_at) for optimizer in optimizers]
    step = 0
    for step, batch in zip(range(1, config.steps + 1), batches):
        with torch.autocast(device, torch.bfloat16, enabled=half):
            value = loss(model, batch)
        if not value.isfinite():
            raise FloatingPointError(f"the loss is {value.item()} at step {step}; lower the learning rate")
        model.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        for optimizer, schedule in zip(optimizers, schedules):
            optimizer.step()
            schedule.step()
        if on_step is not None:
            on_step(step, value.item())
    if step < config.steps:
        raise ValueError(f"only {step} batches for {config.steps} steps")
    model.eval()


def build_optimizers(model: nn.Module, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the encoders' blocks, AdamW for the rest of what is trained.

    From nothing, on little data, Muon is worth it: the shapes of ShapesBench, which AdamW did not
    tell apart within 150 steps of captions, it learned.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    inside = [
        parameter
        for name, parameter in trained
        if parameter.ndim == 2 and (".blocks." in name or ".layer." in name) and config.muon_rate
    ]
    chosen = {id(parameter) for parameter in inside}
    rest = [parameter for _, parameter in trained if id(parameter) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, config.learning_rate, config.betas, weight_decay=config.weight_decay)
    ]
    if inside:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"muon_rate needs torch 2.9 or later (this is {torch.__version__}); set it to 0")
        optimizers.append(torch.optim.Muon(inside, config.muon_rate, weight_decay=0.0))
    return optimizers


def group_loss(model: RewardModel, groups: Sequence[RankedGroup]) -> Tensor:
    """The ranking loss of the model's rewards on some groups."""
    return ranking_loss(group_rewards(model, groups), [group.places for group in groups])


@torch.no_grad()
def accuracy(model: RewardModel, groups: Iterable[RankedGroup]) -> float:
    """Share in [0, 1] of all untied comparisons of ``groups`` that the model gets right."""
    right = total = 0
    for group in groups:
        r, n = pairwise_accuracy(group_rewards(model, [group]).float().cpu(), group.places)
        right, total = right + r, total + n
    return right / total if total else math.nan


def group_rewards(model: RewardModel, groups: Sequence[RankedGroup]) -> Tensor:
    """(N,) rewards of all groups' pictures, one group after the other."""
    device = model.device
    pixels = model.transform.from_uint8(torch.cat([torch.from_numpy(g.pictures) for g in groups]))
    token_ids, mask = model.tokenizer([g.prompt for g in groups])
    counts = torch.tensor([len(g.pictures) for g in groups])
    token_ids, mask = (t.repeat_interleave(counts, 0).to(device) for t in (token_ids, mask))  # (N, L)
    return model(pixels, token_ids, mask)
