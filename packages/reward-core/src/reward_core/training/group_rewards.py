"""The forward pass over groups: frozen vision blocks without gradient, then the trained layers.

Shapes: B images of a micro-batch, S image side, N image tokens, E image width, L text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..models.imagereward.reward_model import RewardModel
from ..runs.cuda import upload
from .config import TrainingConfig
from .freezing import embeddings, frozen_layers
from .frozen_blocks import run_frozen_blocks, run_trained_blocks
from .group_reader import ReadGroup
from .token_cache import TokenCache


class GroupRewards(nn.Module):
    """A reward model as a module to train. Each image is encoded once for all its pairs.

    Args:
        model: a reward model whose frozen parameters do not require gradients (see freezing.py).
        settings: which layers are frozen, whether those use stochastic depth, gradient checkpointing.
    """

    def __init__(self, model: RewardModel, settings: TrainingConfig):
        super().__init__()
        self.model = model
        vision = model.blip.visual_encoder
        share = settings.frozen_share("vision")
        self.block = frozen_layers(len(vision.blocks), share)  # index of the first trained block
        self.has_frozen = share > 0
        self.frozen_drop_path = settings.frozen_drop_path
        vision.gradient_checkpointing = model.blip.text_encoder.gradient_checkpointing = (
            settings.gradient_checkpointing
        )

    def train(self, mode: bool = True) -> GroupRewards:
        super().train(mode)
        if not self.frozen_drop_path:
            for block in list(self.model.blip.visual_encoder.blocks)[: self.block]:
                block.eval()
        return self

    def frozen_parameters(self) -> list[Tensor]:
        """Return the parameters that the output of the frozen blocks depends on."""
        vision = self.model.blip.visual_encoder
        frozen = list(vision.blocks)[: self.block]
        return [*embeddings(vision), *(p for block in frozen for p in block.parameters())]

    @torch.no_grad()
    def frozen_tokens(self, groups: Sequence[ReadGroup], cache: TokenCache | None) -> Tensor:
        """Return the output (B, N, E) of the frozen vision blocks for the images of all groups.

        With a cache it is computed per group, so that cached values do not depend on the rest of the batch.
        """
        if cache is None:
            return self._run_frozen_blocks(self._images(groups))
        return torch.cat([self._cached_tokens(group, cache) for group in groups])

    def _cached_tokens(self, group: ReadGroup, cache: TokenCache) -> Tensor:
        """Return a group's tokens from the cache, or compute and cache them."""
        if group.tokens is not None:
            return upload(group.tokens, self.model.device)
        tokens = self._run_frozen_blocks(self._images([group])).float()
        cache.put(group.slots, tokens)
        # Round to the cache's dtype, so that the first epoch uses the same values as later ones.
        return tokens.to(getattr(torch, cache.dtype.name)).float()

    def _images(self, groups: Sequence[ReadGroup]) -> Tensor:
        """Return the images (B, S, S, 3) uint8 of all groups on the model's device."""
        images = [group.images for group in groups if group.images is not None]
        assert len(images) == len(groups)  # only groups with cached tokens have no images
        return upload(torch.cat(images), self.model.device)

    def _run_frozen_blocks(self, images: Tensor) -> Tensor:
        pixels = self.model.transform.from_uint8(images)  # (B, 3, S, S)
        return run_frozen_blocks(self.model.blip.visual_encoder, pixels, self.block)

    def inputs(
        self, groups: Sequence[ReadGroup], cache: TokenCache | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the arguments of ``forward`` for groups: tokens or pixels, token ids (B, L), mask (B, L)."""
        token_ids, mask = self.model.tokenizer([group.prompt for group in groups], warn=False)
        longest = int(mask.sum(1).max())  # padding beyond the longest prompt is dropped
        counts = torch.tensor([len(group.image_indices) for group in groups])
        token_ids, mask = (
            upload(t[:, :longest].repeat_interleave(counts, 0), self.model.device) for t in (token_ids, mask)
        )
        if self.has_frozen:
            return self.frozen_tokens(groups, cache), token_ids, mask
        return self.model.transform.from_uint8(self._images(groups)), token_ids, mask

    def forward(self, x: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Return rewards (B,).

        Args:
            x: tokens (B, N, E) after the frozen blocks; pixels (B, 3, S, S) if nothing is frozen.
            token_ids, mask: (B, L).
        """
        vision = self.model.blip.visual_encoder
        if not self.has_frozen:
            x = vision.embed(x)
        image_tokens = run_trained_blocks(vision, x, self.block)  # (B, N, E)
        return self.model.rewards_from_features(image_tokens, token_ids, mask)

    def dummy_inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return arguments of ``forward`` for a rank without a group, which must run a pass nevertheless."""
        model, size = self.model, self.model.config.image_size
        token_ids, mask = model.tokenizer(["nothing"], warn=False)
        x = torch.zeros(1, 3, size, size, device=model.device)
        if self.has_frozen:
            with torch.no_grad():
                x = run_frozen_blocks(model.blip.visual_encoder, x, self.block)
        return x, upload(token_ids, model.device), upload(mask, model.device)
