"""Seeded models of ImageReward's size, or the tiny one, and their steps as one function."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from scoring_workload import build
from torch import Tensor

import reward_core as RM
from reward_core.scoring.precision import encoder_dtype

from .measure import Stage

Steps: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


def exact_and_fast(stage: Stage) -> tuple[RM.RewardModel, RM.RewardModel]:
    """Return the same model in float32, and in the fast precision of the device."""
    with tempfile.TemporaryDirectory(dir=stage.work) as folder:
        exact = build("full" if stage.full else "tiny", Path(folder)).to(stage.device)
    fast = copy.deepcopy(exact)
    fast.set_encoder_dtype(encoder_dtype("fast", stage.device))
    fast.fast = fast.resize_on_device = True
    return exact, fast


def steps_of(model: RM.RewardModel) -> Steps:
    """Return a function from pixels (B, 3, S, S), token ids and mask (B, L) to rewards (B,).

    The layers are fused if the model is fast. Nothing is compiled.
    """
    path = model.path()

    def rewards(pixels: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
        return path.rewards(path.project_kv(model.encode_pixels(pixels)), token_ids, mask).float()

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
