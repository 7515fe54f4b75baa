"""Reduce the inputs of denoisers and the state of schedulers to some rows of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

# Positions of tokens, which all candidates share.
SHARED = ("img_ids", "txt_ids")


def denoiser_latents(args: tuple, kwargs: dict) -> Tensor | list[Tensor]:
    """Return the latents among a denoiser's inputs: a tensor, or Z-Image's list with one tensor per row."""
    return args[0] if args else kwargs["sample" if "sample" in kwargs else "hidden_states"]


def reduced_inputs(args: tuple, kwargs: dict, full: int, kept: Sequence[int]) -> tuple[tuple, dict] | None:
    """Return a denoiser's inputs, reduced to the kept rows; None if nothing changes.

    Args:
        args, kwargs: the inputs. Their latents have the kept rows, or these rows several times with guidance.
        full: number of rows of the inputs that are not reduced yet.
        kept: indices of the kept rows.
    """
    latents = denoiser_latents(args, kwargs)
    if len(kept) == full or len(latents) % len(kept):
        return None
    copies = len(latents) // len(kept)  # 2 with guidance
    rows = [copy * full + row for copy in range(copies) for row in kept]
    # With latents in a list, each list has one item per row, and the first dimension of a tensor in it has
    # another meaning.
    lists_of_rows = isinstance(latents, list)

    def cut(value: Any, name: str = "") -> Any:
        if isinstance(value, Tensor):
            has_all_rows = value.ndim > 0 and len(value) == copies * full and name not in SHARED
            return value[torch.tensor(rows, device=value.device)] if has_all_rows else value
        if isinstance(value, dict):
            return {key: cut(item, key) for key, item in value.items()}
        if lists_of_rows and isinstance(value, list):
            return [value[row] for row in rows] if len(value) == copies * full else value
        if isinstance(value, (list, tuple)):
            return type(value)(cut(item) for item in value)
        return value

    return tuple(cut(value) for value in args), {key: cut(value, key) for key, value in kwargs.items()}


def expanded_outputs(outputs: list[Tensor], full: int, kept: Sequence[int]) -> list[Tensor]:
    """Return a denoiser's list of outputs with an item for each of all rows.

    Z-Image's guidance reads an output for each candidate. Those of dropped ones repeat the first output.
    """
    index = {row: i for i, row in enumerate(kept)}
    copies = range(0, len(outputs), len(kept))
    return [outputs[start + index.get(row, 0)] for start in copies for row in range(full)]


def select_scheduler_rows(scheduler: Any, count: int, rows: Iterable[int]) -> None:
    """Reduce a scheduler's stored latents and outputs of earlier steps from ``count`` rows to ``rows``."""
    rows = list(rows)

    def cut(value: Any) -> Any:
        # Tables of noise levels have one dimension, latents have three or more.
        if isinstance(value, Tensor) and value.ndim >= 3 and len(value) == count:
            return value[torch.tensor(rows, device=value.device)]
        if isinstance(value, list):
            return [cut(item) for item in value]
        return value

    for name, value in vars(scheduler).items():
        if isinstance(value, (Tensor, list)):
            setattr(scheduler, name, cut(value))
