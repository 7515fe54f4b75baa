"""Optimizers and how their rates change, for both the trainer and the pre-training loop."""

from __future__ import annotations

import math

import torch
from torch import nn


def rate_at(step: int, steps: int, warmup_steps: int, schedule: str = "cosine") -> float:
    """Share of the highest rate at a step counted from 0: a linear rise, then the schedule down to 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min((step - warmup_steps) / max(steps - warmup_steps, 1), 1.0)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[schedule]


def set_rates(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Bring every learning rate to a share of the one that its optimizer was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("highest_lr", group["lr"]) * share


def build_optimizers(
    model: nn.Module,
    lr: float,
    muon_lr: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    weight_decay: float = 0.01,
    kind: type[torch.optim.AdamW] | type[torch.optim.Adam] = torch.optim.AdamW,
) -> list[torch.optim.Optimizer]:
    """``kind`` (AdamW or Adam) for what is trained; with ``muon_lr``, Muon for the matrices inside the
    encoders' blocks.

    From nothing, on little data, Muon is worth it: the shapes of ShapesBench, which AdamW did not
    tell apart within 150 steps of captions, it learned.

    Raises:
        ValueError: nothing is to be trained, or this torch has no Muon.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("every parameter is frozen; call requires_grad_() on the parts to be trained")
    inside = [
        parameter
        for name, parameter in trained
        if muon_lr and parameter.ndim == 2 and (".blocks." in name or ".layer." in name)
    ]
    chosen = {id(parameter) for parameter in inside}
    rest = [parameter for _, parameter in trained if id(parameter) not in chosen]
    optimizers: list[torch.optim.Optimizer] = []
    if rest:
        optimizers.append(kind(rest, lr=lr, betas=betas, eps=epsilon, weight_decay=weight_decay))
    if inside:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"Muon needs torch 2.9 or later (this is {torch.__version__}); take AdamW")
        optimizers.append(torch.optim.Muon(inside, muon_lr, weight_decay=0.0))
    return optimizers
