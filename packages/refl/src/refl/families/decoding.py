"""Decoding of latents in chunks, whose activations are recomputed in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..kernels.split_group_norm import split_group_norms

CHUNK_PIXELS = 512 * 512
# The inputs of a decoder's blocks, of all chunks, are kept until the backward pass: a quarter of the
# activations of a chunk. With more chunks, recomputing the decoder as a whole needs less memory.
CHUNKS_BY_BLOCK = 3
BLOCKS = {"attentions", "resnets", "upsamplers"}  # lists of blocks in diffusers' decoders
Recompute = Callable[..., Any]
"""(function, *args, **kwargs) -> the function's result, computed again in the backward pass."""
Context = Callable[[], AbstractContextManager[Any]]

recompute_in_backward: Recompute = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


def images_per_chunk(height: int, width: int) -> int:
    """Return how many images of a size in pixels are decoded at once: at most 512 x 512 pixels in all."""
    return max(1, CHUNK_PIXELS // (height * width))


def decode_in_chunks(
    decode: Callable[[Tensor], Tensor],
    decoder: nn.Module,
    latents: Tensor,
    chunk: int,
    recompute: Recompute | None = None,
) -> Tensor:
    """Decode latents, one chunk after another, so that activations of only one exist at once.

    On a GPU, group normalization of a small chunk splits its groups (see ``split_group_norm``).

    Args:
        decode: decodes latents (N, C, h, w) to images (N, 3, H, W) with the decoder.
        decoder: the decoder of the autoencoder.
        latents: (B, C, h, w) latents, unscaled.
        chunk: images per chunk.
        recompute: function that recomputes a part in the backward pass: the decoder's blocks, with many
            chunks the decoder as a whole; None: keep all activations.

    Returns:
        Images (B, 3, H, W) in [-1, 1].
    """
    parts = latents.split(chunk)
    blocks = _blocks(decoder) if len(parts) <= CHUNKS_BY_BLOCK else [decoder]
    norms = partial(split_group_norms, decoder, latents.device)
    with norms(), nullcontext() if recompute is None else _recomputed(blocks, recompute, norms):
        return torch.cat([decode(part) for part in parts])


def _blocks(decoder: nn.Module) -> list[nn.Module]:
    """Return the blocks of a decoder; one of another structure is one block."""
    lists: Any = (module for name, module in decoder.named_modules() if name.rpartition(".")[2] in BLOCKS)
    return [block for blocks in lists for block in blocks if block is not None] or [decoder]


@contextmanager
def _recomputed(blocks: list[nn.Module], recompute: Recompute, context: Context) -> Iterator[None]:
    """Call these blocks through ``recompute``, each in a context; afterwards they are as before.

    diffusers' own gradient checkpointing takes whole up blocks, which keep up to three times as much.
    """
    before = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = partial(recompute, partial(_call_in, context, block.forward))
        yield
    finally:
        for block, forward in zip(blocks, before):
            if forward is None:
                vars(block).pop("forward", None)
            else:
                block.forward = forward


def _call_in(context: Context, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function in a context, also when it is computed again in the backward pass."""
    with context():
        return function(*args, **kwargs)
