"""A small training loop: ranked groups in, a better reward model out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..reward_model import RewardModel
from .pairs import RankedGroup, pairwise_accuracy
from .ranking_loss import ranking_loss


@dataclass(frozen=True)
class TrainingConfig:
    """Steps and step sizes.

    ``learning_rate`` is reached after ``warmup_steps`` and falls along a cosine to 0 at ``steps``;
    ``clip`` bounds the gradient's norm; ``bf16`` runs matrix products in bfloat16.
    """

    steps: int
    learning_rate: float = 5e-4
    warmup_steps: int = 100
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    clip: float = 1.0
    bf16: bool = False

    def rate_at(self, step: int) -> float:
        """Share of ``learning_rate`` at a step counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def train(
    model: RewardModel,
    batches: Iterable[Sequence[RankedGroup]],
    config: TrainingConfig,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train in place on ``config.steps`` batches of groups; each picture is encoded once.

    Args:
        on_step: called after each step with its number (from 1) and its loss.

    Raises:
        ValueError: the batches run out early. FloatingPointError: the loss is not a number.
    """
    model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(
        _decay_groups(model, config.weight_decay), lr=config.learning_rate, betas=config.betas
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, config.rate_at)
    step = 0
    for step, groups in zip(range(1, config.steps + 1), batches):
        with torch.autocast(model.device.type, torch.bfloat16, enabled=config.bf16):
            rewards = group_rewards(model, groups)
        loss = ranking_loss(rewards, [g.places for g in groups])
        if not loss.isfinite():
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}; lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step, loss.item())
    if step < config.steps:
        raise ValueError(f"only {step} batches for {config.steps} steps")
    model.requires_grad_(False).eval()


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
    pictures = torch.cat([torch.from_numpy(g.pictures) for g in groups]).to(device)  # (N, S, S, 3)
    pixels = (pictures.permute(0, 3, 1, 2).float() / 255 - model.transform.mean) / model.transform.std
    token_ids, mask = model.tokenizer([g.prompt for g in groups])
    counts = torch.tensor([len(g.pictures) for g in groups])
    token_ids, mask = (t.repeat_interleave(counts, 0).to(device) for t in (token_ids, mask))  # (N, L)
    return model(pixels, token_ids, mask)


def _decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay pulls at matrices, not at biases, norms and embeddings of position."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim == 2]
    others = [p for p in parameters if p.ndim != 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
