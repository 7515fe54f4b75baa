"""Seeded models of ImageReward's size, or the tiny one, and their steps as one function."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from scoring_workload import build
from torch import Tensor

import reward_core as RM
from reward_core.scoring.compiling import CompilePlan
from reward_core.scoring.precision import encoder_dtype

from .measure import Stage

Steps: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


def exact_and_fast(stage: Stage) -> tuple[RM.RewardModel, RM.RewardModel]:
    """Return the same model in float32, and in the fast precision of the device."""
    with tempfile.TemporaryDirectory(dir=stage.work) as folder:
        exact = build("full" if stage.full else "tiny", Path(folder)).to(stage.device)
    fast = copy.deepcopy(exact)
    fast.set_encoder_dtype(encoder_dtype("fast", stage.device))
    fast.fast = True
    return exact, fast


def steps_of(model: RM.RewardModel, *, recorded: bool = False) -> Steps:
    """Return a function from levels (B, S, S, 3) uint8 on the device and tokens (B, L) to rewards (B,).

    Args:
        model: the model; its layers are fused if it is fast.
        recorded: use CUDA graphs (after ``warm_up`` of the model).
    """
    path = model.path()
    if model.fast and not recorded:
        path = copy.copy(path)
        path.plan = CompilePlan(seconds=math.inf, saves=1.0)
        path.prepare()

    def rewards(levels: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
        with path.transfers.active():
            return path.pair_rewards(path.encode(levels), token_ids, mask).float()

    return rewards


def saved_model(stage: Stage, model: RM.RewardModel | None = None) -> str:
    """Return the folder of a saved model for ``reward_core.load``; stages share it."""
    if not stage.full:
        return "tiny"
    folder = stage.work / "model"
    if not (folder / "config.json").is_file():
        with tempfile.TemporaryDirectory(dir=stage.work) as name:
            (model or build("full", Path(name))).save_pretrained(folder)
    return str(folder)
