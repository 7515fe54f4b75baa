"""The base models, from transformers: patches to visual tokens, tokens to the state at the reward token.

Letters in shape comments: B pairs, L text tokens, S tokens with the visual ones, E width, h, w grid of visual
tokens, n levels of visual tokens (Qwen3-VL feeds some into its first layers).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ...errors import CheckpointError, InputError
from ...files.foreign_bytes import guarded, reason
from .config import VlmConfig
from .image_rows import MERGE, grids_of, packed, unpacked, vision_patches

# model_type -> class in transformers, first version with it
_CLASSES = {"qwen2_vl": ("Qwen2VL", "4.56"), "qwen3_vl": ("Qwen3VL", "4.57")}


class Backbone(nn.Module):
    """A Qwen2-VL or Qwen3-VL model without its language head.

    Args:
        config: sizes of the model.
        grid_positions: whether visual tokens have rotary positions by time, row and column, as in the
            published base models. Otherwise all tokens are numbered one after the other, as HPSv3 does.
    """

    def __init__(self, config: VlmConfig, grid_positions: bool) -> None:
        super().__init__()
        self.grid_positions = grid_positions
        self.model: Any = _build(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.language_model.embed_tokens.weight.dtype

    def encode_images(self, images: Tensor) -> Tensor:
        """Return visual tokens, packed (B, 1 + n T, E), of packed normalized rows (B, 1 + T, D)."""
        grids = grids_of(images)
        patches = [vision_patches(unpacked(image, grid)[0]) for image, grid in zip(images, grids)]
        sides = torch.tensor([[1, MERGE * h, MERGE * w] for h, w in grids], device=images.device)
        output = self.model.visual(torch.cat(patches).to(self.dtype), grid_thw=sides)
        counts = [h * w for h, w in grids]
        levels = [level.split(counts) for level in _levels(output)]
        return packed([torch.stack(tokens) for tokens in zip(*levels)], grids)

    def states(
        self, features: Tensor, token_ids: Tensor, mask: Tensor | None, image_index: int
    ) -> tuple[Tensor, Tensor]:
        """Return the final hidden states (B, S, E) and the index of the last token of each row (B,).

        Args:
            features: result of ``encode_images`` for B images.
            token_ids: (B, L), with one image token each.
            mask: (B, L), 0 at padding on the right; None without padding.
            image_index: index of the image token.
        """
        grids = grids_of(features)
        visual = [unpacked(image, grid) for image, grid in zip(features, grids)]  # (n, h w, E) each
        counts = torch.tensor([tokens.shape[1] for tokens in visual], device=features.device)
        lengths = mask.sum(1) if mask is not None else counts.new_full((len(token_ids),), token_ids.shape[1])
        embedded = self.model.language_model.embed_tokens(token_ids)
        parts = zip(embedded, visual, lengths.tolist())
        rows = [
            torch.cat([row[:image_index], tokens[0].to(row), row[image_index + 1 : length]])
            for row, tokens, length in parts
        ]
        inputs = pad_sequence(rows, batch_first=True)  # (B, S, E)
        index = torch.arange(inputs.shape[1], device=inputs.device)  # (S,)
        options: dict[str, Any] = {}
        # (4, B, S): plain positions, from which transformers makes the mask, and those of the rotary axes.
        positions = index.expand(4, len(rows), -1)
        if self.grid_positions:
            axes = torch.stack([_grid_positions(index, image_index, grid) for grid in grids], dim=1)
            positions = torch.cat([positions[:1], axes])
        if len(visual[0]) > 1:
            options["visual_pos_masks"] = (index >= image_index) & (index < image_index + counts[:, None])
            options["deepstack_visual_embeds"] = list(torch.cat([tokens[1:] for tokens in visual], dim=1))
        # Attention is causal and padding is last, so no token sees padding and no mask is needed.
        output = self.model.language_model(
            inputs_embeds=inputs, position_ids=positions, use_cache=False, **options
        )
        return output.last_hidden_state, lengths + counts - 2

    def reward_states(
        self, features: Tensor, token_ids: Tensor, mask: Tensor | None, image_index: int
    ) -> Tensor:
        """Return the final hidden states (B, E) at the last tokens, in float32. Args are as in ``states``."""
        hidden, last = self.states(features, token_ids, mask, image_index)
        return hidden[torch.arange(len(hidden), device=hidden.device), last].float()


def _grid_positions(index: Tensor, start: int, grid: tuple[int, int]) -> Tensor:
    """Return the positions (3, S) by time, row and column of a text with an image.

    Visual tokens have the time of the first one and count rows and columns from it. The text after them
    continues from the largest position.

    Args:
        index: 0 to S - 1.
        start: index of the first visual token.
        grid: (h, w).
    """
    h, w = grid
    inside = index - start
    is_visual = (inside >= 0) & (inside < h * w)
    after = index - h * w + max(h, w)
    text = torch.where(inside < 0, index, after)
    zero = torch.zeros_like(index)
    axes = (zero, inside // w, inside % w)
    return torch.stack([torch.where(is_visual, start + axis, text) for axis in axes])


def _levels(output: Any) -> list[Tensor]:
    """Return the levels of visual tokens, (tokens, E) each. transformers 4 returned them without a name."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, tuple):
        return [output[0], *output[1]]
    return [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]


def _build(config: VlmConfig) -> nn.Module:
    """Return the base model on "meta", except for its constants.

    Raises:
        InputError: transformers is too old.
        CheckpointError: sizes that make no model.
    """
    import transformers

    prefix, version = _CLASSES[config.model_type]
    config_class = getattr(transformers, f"{prefix}Config", None)
    model_class = getattr(transformers, f"{prefix}Model", None)
    if config_class is None or model_class is None:
        raise InputError(
            f"Cannot build a {config.model_type} model: it needs transformers {version} or later, "
            f"{transformers.__version__} is installed. Run `pip install -U transformers`."
        )

    def refused(error: BaseException) -> CheckpointError:
        return CheckpointError(f"Cannot build a {config.model_type} model from its sizes: {reason(error)}.")

    with guarded(refused):
        ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        text = {**config.text, **ids, "vocab_size": config.rows}
        sizes = config_class(text_config=text, vision_config=dict(config.vision))
        sizes._attn_implementation = "sdpa"
        with torch.device("meta"):
            model: nn.Module = model_class(sizes)
        _compute_constants(model)
    return model


def _compute_constants(model: nn.Module) -> None:
    """Build the rotary embeddings again off "meta": they hold constants that no checkpoint has."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            buffers = dict(child.named_buffers(recurse=False))
            if buffers:
                # The vision embedding of transformers 4 takes half the size of a head instead of a config.
                argument = getattr(child, "config", 2 * buffers["inv_freq"].numel())
                with torch.device("cpu"):
                    setattr(module, name, type(child)(argument))
