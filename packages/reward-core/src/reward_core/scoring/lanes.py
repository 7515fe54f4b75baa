"""Lanes: scorers of a group that read the same image features.

Shapes: B images in a batch, P prompts, K scorers of a lane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .image_batches import ImageBatch
from .pipeline import B, BatchResult
from .scoring_model import ScoringModel
from .steps import ScoringPath

#: Function from features (B, ...) and indices of B images to rewards, (B,) or (B, P).
Compute = Callable[[Tensor, list[int]], Tensor]


@dataclass(frozen=True)
class Lane:
    """Scorers that read the same image features, such as CLIP and Aesthetic.

    Attributes:
        names: names of the scorers.
        encoder: the scorer that encodes the images.
    """

    names: tuple[str, ...]
    encoder: ScoringModel


def refresh_others(lanes: Sequence[Lane], paths: Mapping[str, ScoringPath]) -> None:
    """Update the paths of the scorers that do not encode if their weights changed.

    Pipelines update those of the encoders.

    Args:
        lanes: the lanes.
        paths: path of each scorer by name.
    """
    for lane in lanes:
        for name in lane.names[1:]:
            paths[name].refresh()


def by_name(lanes: Sequence[Lane], results: Sequence[BatchResult[B]]) -> dict[str, BatchResult[B]]:
    """Return scorer -> its result of a batch.

    Each lane has its own rows and errors, because an encoder may refuse an image that another one reads.

    Args:
        lanes: the lanes.
        results: the result of each, with values (R, ..., K).

    Returns:
        For each scorer the rows and errors of its lane, and its values (R, ...).
    """
    return {
        name: replace(result, values=None if result.values is None else result.values[..., k])
        for lane, result in zip(lanes, results, strict=True)
        for k, name in enumerate(lane.names)
    }


def stacked(lane: Lane, compute: Mapping[str, Compute]) -> Callable[[Tensor, ImageBatch, list[int]], Tensor]:
    """Return the function of a pipeline with results (B, ..., K) of the scorers of a lane."""

    def computed(features: Tensor, batch: ImageBatch, rows: list[int]) -> Tensor:
        indices = [batch.start + row for row in rows]
        return torch.stack([compute[name](features, indices) for name in lane.names], dim=-1)

    return computed
