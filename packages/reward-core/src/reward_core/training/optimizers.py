"""Optimizers and learning-rate schedules of the trainer and the pre-training loop."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..runs.cuda import fused_option

WARMUP_SHARE = 0.1  # of a run's steps, at most


def limit_warmup(warmup_steps: int, steps: int) -> int:
    """Return the number of warm-up steps, limited to WARMUP_SHARE of a run's steps, rounded down.

    Without a limit a short run would end before the learning rate reaches its peak.
    """
    return min(warmup_steps, int(WARMUP_SHARE * steps))


def rate_at(step: int, steps: int, warmup_steps: int, schedule: str = "cosine") -> float:
    """Return the learning rate as a fraction of its peak: a linear warm-up, then decay to 0.

    Args:
        step: index of the step, from 0.
        steps: number of steps.
        warmup_steps: number of warm-up steps.
        schedule: "cosine", "linear" or "constant".
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min((step - warmup_steps) / max(steps - warmup_steps, 1), 1.0)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[schedule]


def set_rates(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Set every learning rate to ``share`` times the one its optimizer was created with."""
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
    """Return the optimizers of the parameters that require gradients.

    Muon helps when training from scratch on little data: in 150 caption steps it learned to distinguish
    the shapes of ShapesBench, which AdamW did not.

    Args:
        model: the model to train.
        lr: learning rate of ``kind``.
        muon_lr: learning rate of Muon for the matrices in the encoders' blocks; 0: do not use Muon.
        betas, epsilon, weight_decay: of ``kind``.
        kind: AdamW or Adam.

    Raises:
        ValueError: all parameters are frozen, or this version of torch has no Muon.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError(
            "Cannot train: every parameter is frozen. Call requires_grad_() on the parts to train."
        )
    matrices = [
        parameter
        for name, parameter in trained
        if muon_lr and parameter.ndim == 2 and (".blocks." in name or ".layer." in name)
    ]
    with_muon = {id(parameter) for parameter in matrices}
    rest = [parameter for _, parameter in trained if id(parameter) not in with_muon]
    optimizers: list[torch.optim.Optimizer] = []
    if rest:
        fused = fused_option(rest)
        optimizers.append(kind(rest, lr=lr, betas=betas, eps=epsilon, weight_decay=weight_decay, **fused))
    if matrices:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(
                f"Cannot use Muon: it needs torch 2.9 or later, this is {torch.__version__}. Update torch or "
                "use AdamW."
            )
        optimizers.append(torch.optim.Muon(matrices, muon_lr, weight_decay=0.0))
    return optimizers
