"""Orders in which the C++ of the folder cpp reads weights.

Shapes: E input width and O output width of a linear layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

PANEL = 32  # columns of a product that are computed at once
LANES = 16  # outputs of a vector


def in_panels(weight: Tensor) -> Tensor:
    """Return an int8 weight (O, E) in the order in which cpp/products.cpp reads it.

    Missing columns of the last panel are 0.
    """
    fours = padded(weight).contiguous().view(torch.int32)
    panels = fours.view(-1, 2, PANEL // 2, fours.shape[1] // 16, 16)  # panel, half, column, depth, input
    return panels.permute(0, 3, 1, 4, 2).contiguous()


def in_nibbles(errors: Tensor) -> Tensor:
    """Return errors (O, E) within [-0.5, 0.5] in the order in which cpp/weight_errors.cpp reads them.

    Levels 0 to 15 stand for (level - 7.5) / 16.
    """
    levels = ((errors + 0.5) * 16).floor_().clamp_(0, 15).to(torch.uint8)
    lower, upper = padded(levels, LANES).view(-1, LANES, errors.shape[1] // 8, 2, 4).unbind(3)
    return (lower | upper << 4).transpose(1, 2).contiguous()  # group, eight inputs, output, four inputs


def padded(x: Tensor, multiple: int = PANEL) -> Tensor:
    """Return x (O, ...) with zeros, so that O is a multiple (default: of the columns of a panel)."""
    missing = -len(x) % multiple
    return x if missing == 0 else torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
