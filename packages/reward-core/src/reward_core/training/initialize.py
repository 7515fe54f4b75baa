"""Weights for a model that is trained from nothing."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def initialize_from_scratch(model: nn.Module, seed: int, gain: float = 0.7) -> None:
    """Seeded normal weights of standard deviation gain / sqrt(fan in), biases zero, in place.

    With BERT's customary 0.02 a small encoder passes hardly any difference on, and the loss sits
    at log 2; this scale lets image and prompt reach the head from the first step. The class token
    and the image positions get 0.5, near the size of what they are added to; words 1 / sqrt(width).
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, gain / fan_in**0.5, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0, module.embedding_dim**-0.5, generator=generator)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    for name, parameter in model.named_parameters():
        if name.endswith(("cls_token", "pos_embed")):
            parameter.normal_(0, 0.5, generator=generator)
