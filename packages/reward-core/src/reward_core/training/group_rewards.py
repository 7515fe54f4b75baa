"""The forward pass over groups: frozen vision blocks first, without gradient, then the rest.

Letters in shape comments: B images of a micro-batch, S image side, N image tokens, E image width,
L text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..models.imagereward.reward_model import RewardModel
from .config import TrainingConfig
from .freezing import embeddings, frozen_layers
from .group_reader import ReadGroup
from .token_cache import TokenCache


class GroupRewards(nn.Module):
    """A reward model as it is trained; each image is encoded once, however many pairs it is in.

    Args:
        model: its parameters frozen as they are to be (see freezing.py).
        settings: the frozen share, stochastic depth in it, recomputing.
    """

    def __init__(self, model: RewardModel, settings: TrainingConfig):
        super().__init__()
        self.model = model
        vision = model.blip.visual_encoder
        share = settings.frozen_share("vision")
        self.block = frozen_layers(len(vision.blocks), share)  # the first that is trained
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
        """What the frozen vision blocks' tokens depend on."""
        vision = self.model.blip.visual_encoder
        frozen = list(vision.blocks)[: self.block]
        return [*embeddings(vision), *(p for block in frozen for p in block.parameters())]

    @torch.no_grad()
    def frozen_tokens(self, groups: Sequence[ReadGroup], cache: TokenCache | None) -> Tensor:
        """Tokens (B, N, E) that enter the first trained vision block, of all groups' images.

        What is kept is computed group by group, so that it does not depend on a batch's company.
        """
        device, transform = self.model.device, self.model.transform
        vision = self.model.blip.visual_encoder
        if cache is None:
            images = torch.cat([_images(group) for group in groups])
            return vision.before(transform.from_uint8(images), self.block)
        parts = []
        for group in groups:
            if group.tokens is not None:
                parts.append(group.tokens.to(device))
                continue
            tokens = vision.before(transform.from_uint8(_images(group)), self.block)
            cache.put(group.slots, tokens.float())
            if cache.dtype.name != "float32":
                tokens = tokens.to(getattr(torch, cache.dtype.name))  # as they will be read
            parts.append(tokens.float())
        return torch.cat(parts)

    def inputs(
        self, groups: Sequence[ReadGroup], cache: TokenCache | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(what ``forward`` takes of the images, token ids (B, L), mask (B, L)) of some groups."""
        token_ids, mask = self.model.tokenizer([group.prompt for group in groups])
        longest = int(mask.sum(1).max())  # padding that all share is left out
        counts = torch.tensor([len(group.image_indices) for group in groups])
        token_ids, mask = (
            t[:, :longest].repeat_interleave(counts, 0).to(self.model.device) for t in (token_ids, mask)
        )
        if self.has_frozen:
            return self.frozen_tokens(groups, cache), token_ids, mask
        images = torch.cat([_images(group) for group in groups])
        return self.model.transform.from_uint8(images), token_ids, mask

    def forward(self, seen: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, N, E), or pixels (B, 3, S, S) if nothing is frozen, as ``inputs`` gives them -> (B,)."""
        vision = self.model.blip.visual_encoder
        tokens = vision.after(seen if self.has_frozen else vision.before(seen, 0), self.block)
        return self.model.rewards_from_features(tokens, token_ids, mask)

    def nothing(self) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of a pass that counts for nothing, for a rank that must take part without a group."""
        model, size = self.model, self.model.config.image_size
        token_ids, mask = model.tokenizer(["nothing"])
        seen = torch.zeros(1, 3, size, size, device=model.device)
        if self.has_frozen:
            with torch.no_grad():
                seen = model.blip.visual_encoder.before(seen, self.block)
        return seen, token_ids.to(model.device), mask.to(model.device)


def _images(group: ReadGroup) -> Tensor:
    assert group.images is not None  # a group without images has tokens from the cache
    return group.images
