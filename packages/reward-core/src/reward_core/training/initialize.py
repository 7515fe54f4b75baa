"""Random initial weights for a model that is trained from scratch."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def initialize_from_scratch(model: nn.Module, seed: int, gain: float = 0.7) -> None:
    """Initialize all weights, in place, from a normal distribution; biases are 0.

    The standard deviation is gain / sqrt(fan in) in linear and convolution layers, 1 / sqrt(width) in
    embeddings, and 0.5 for the class token and the image positions, close to the values they are added
    to. With BERT's usual 0.02 the output of a small encoder hardly depends on its input and the loss
    stays at log 2; with this scale image and prompt reach the head from the first step.

    Args:
        model: the model to initialize.
        seed: seed of the generator.
        gain: scale of the linear and convolution weights.
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
