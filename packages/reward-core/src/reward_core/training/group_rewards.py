"""The forward pass over groups: frozen vision blocks first, without gradient, then the rest.

Shapes: B images of a micro-batch, S image side, N image tokens, E image width, L text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..models.imagereward.reward_model import RewardModel
from .config import TrainingConfig
from .freezing import embeddings, frozen_layers
from .frozen_blocks import run_frozen_blocks, run_trained_blocks
from .group_reader import ReadGroup
from .token_cache import TokenCache


class GroupRewards(nn.Module):
    """A reward model as it is trained; each image is encoded once, however many pairs it is in.

    Args:
        model: its parameters frozen as they are to be (see freezing.py).
        settings: the frozen share, stochastic depth in it, gradient checkpointing.
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
        """Return the parameters on which the frozen blocks' tokens depend."""
        vision = self.model.blip.visual_encoder
        frozen = list(vision.blocks)[: self.block]
        return [*embeddings(vision), *(p for block in frozen for p in block.parameters())]

    @torch.no_grad()
    def frozen_tokens(self, groups: Sequence[ReadGroup], cache: TokenCache | None) -> Tensor:
        """Return the tokens (B, N, E) that enter the first trained vision block, of all groups' images.

        Tokens for the cache are computed group by group, so they do not depend on the rest of the batch.
        """
        if cache is None:
            return self._run_frozen_blocks(torch.cat([_images(group) for group in groups]))
        return torch.cat([self._cached_tokens(group, cache) for group in groups])

    def _cached_tokens(self, group: ReadGroup, cache: TokenCache) -> Tensor:
        """Return a group's tokens as read from the cache, or compute and store them."""
        if group.tokens is not None:
            return group.tokens.to(self.model.device)
        tokens = self._run_frozen_blocks(_images(group)).float()
        cache.put(group.slots, tokens)
        # Rounded as the cache stores them, so that the first epoch reads what later ones do.
        return tokens.to(getattr(torch, cache.dtype.name)).float()

    def _run_frozen_blocks(self, images: Tensor) -> Tensor:
        pixels = self.model.transform.from_uint8(images)  # (B, 3, S, S)
        return run_frozen_blocks(self.model.blip.visual_encoder, pixels, self.block)

    def inputs(
        self, groups: Sequence[ReadGroup], cache: TokenCache | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what ``forward`` takes of some groups: tokens or pixels, token ids (B, L), mask (B, L)."""
        token_ids, mask = self.model.tokenizer([group.prompt for group in groups], warn=False)
        longest = int(mask.sum(1).max())  # drops padding that all prompts share
        counts = torch.tensor([len(group.image_indices) for group in groups])
        token_ids, mask = (
            t[:, :longest].repeat_interleave(counts, 0).to(self.model.device) for t in (token_ids, mask)
        )
        if self.has_frozen:
            return self.frozen_tokens(groups, cache), token_ids, mask
        images = torch.cat([_images(group) for group in groups])
        return self.model.transform.from_uint8(images), token_ids, mask

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

    def nothing(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs of a pass without a group, for a rank that must take part in a step all the same."""
        model, size = self.model, self.model.config.image_size
        token_ids, mask = model.tokenizer(["nothing"], warn=False)
        x = torch.zeros(1, 3, size, size, device=model.device)
        if self.has_frozen:
            with torch.no_grad():
                x = run_frozen_blocks(model.blip.visual_encoder, x, self.block)
        return x, token_ids.to(model.device), mask.to(model.device)


def _images(group: ReadGroup) -> Tensor:
    assert group.images is not None  # a group without images has tokens from the cache
    return group.images
