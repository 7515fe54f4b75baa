"""A check of tensors of images: levels 0 to 255 instead of [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import InputError

# Decoders return values a little above 1, which are clipped. Levels are larger.
MOST = 2.0


def refuse_levels(*images: Tensor) -> None:
    """Raise InputError if float images on the CPU have values above `MOST`.

    Images on a GPU are not checked, because reading the largest value would wait for the device.
    """
    if torch.compiler.is_compiling() or any(map(torch._C._functorch.is_functorch_wrapped_tensor, images)):
        return  # their values cannot be read
    for image in images:
        # Other classes may have no values, as when the memory of a step is estimated.
        plain = type(image) in (Tensor, nn.Parameter) and image.device.type == "cpu"
        if plain and image.is_floating_point() and image.numel() and (most := image.detach().amax()) > MOST:
            raise InputError(
                f"Cannot use the pixels: they must be in [0, 1], got values up to {most.item():.4g}. "
                "Divide levels 0 to 255 by 255."
            )
