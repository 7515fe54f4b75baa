"""Pre-training on pictures and prompts, for models made from nothing: contrast, matching, masked words.

The first two are BLIP's (arXiv 2201.12086, section 3.2), the third ALBEF's (arXiv 2107.07651,
section 3.2).

A reward model that starts from random weights and sees only rankings stays at log 2 for long: a
comparison is one bit, and to earn it the model must already see shapes, read words and bind the two.
Pairs of a picture and its prompt teach those directly.

Letters in shape comments: B batch, K prompts per picture, S image side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..reward_model import RewardModel
from ..text_encoder import KeysValues
from ..tokenizer import SPECIAL_TOKENS


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture, its prompt, and prompts that almost, but not quite, describe it.

    picture: (S, S, 3) uint8 at the model's side; near_misses: K - 1 prompts, as many for every
    picture of a batch.
    """

    picture: np.ndarray
    prompt: str
    near_misses: tuple[str, ...]


def caption_loss(
    model: RewardModel, batch: Sequence[CaptionedPicture], scale: float = 1 / 0.07, masked: float = 0.4
) -> Tensor:
    """Contrast, matching and masked words, a scalar.

    Contrast: among the batch, each picture's projected class token and its prompt's projected [CLS]
    find each other (cross-entropy both ways, cosines times ``scale``). Matching: read beside the
    picture, its prompt gets a higher reward than each near miss (-log sigmoid of the difference).
    Masked words: a share ``masked`` of the prompt's words is hidden, twice over, and read off the
    picture (cross-entropy against the word embeddings); this is what teaches a small model fastest
    to see. The hiding draws from torch's global generator.
    """
    prompts = [prompt for item in batch for prompt in (item.prompt, *item.near_misses)]
    kinds = len(prompts) // len(batch)  # K
    pictures = torch.from_numpy(np.stack([item.picture for item in batch]))
    image_tokens = model.encode_pixels(model.transform.from_uint8(pictures))  # (B, N, E)
    token_ids, mask = (t.to(model.device) for t in model.tokenizer(prompts))  # (B K, L)
    own_ids, own_mask = token_ids[::kinds], mask[::kinds]  # (B, L)

    blip = model.blip
    seen = F.normalize(blip.vision_proj(image_tokens[:, 0]), dim=-1)  # (B, P)
    read = F.normalize(blip.text_proj(blip.encode_text(own_ids, own_mask)), dim=-1)  # (B, P)
    logits = scale * seen @ read.T  # (B, B)
    own = torch.arange(len(batch), device=logits.device)
    contrast = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    memory = model.remember(image_tokens)  # once for all prompts of a picture
    for_each = [tuple(t.repeat_interleave(kinds, 0) for t in layer) for layer in memory]
    rewards = model.rewards_from_memory(for_each, token_ids, mask)
    rewards = rewards.view(len(batch), kinds)  # column 0: the picture's own prompt
    matching = F.softplus(rewards[:, 1:] - rewards[:, :1]).mean()

    twice = [tuple(t.repeat(2, 1, 1) for t in layer) for layer in memory]
    words = _masked_word_loss(model, twice, own_ids.repeat(2, 1), own_mask.repeat(2, 1), masked)
    return contrast + matching + 2 * words


def _masked_word_loss(
    model: RewardModel, memory: Sequence[KeysValues], token_ids: Tensor, mask: Tensor, share: float
) -> Tensor:
    ids = {name: model.tokenizer.fast_tokenizer.token_to_id(name) for name in SPECIAL_TOKENS}
    special = torch.isin(token_ids, torch.tensor(list(ids.values()), device=token_ids.device))
    hidden = (torch.rand(token_ids.shape, device=token_ids.device) < share) & ~special  # (B, L)
    features = model.blip.text_encoder(token_ids.masked_fill(hidden, ids["[MASK]"]), mask, memory)
    logits = features[hidden] @ model.blip.text_encoder.embeddings.word_embeddings.weight.T  # (M, vocabulary)
    return F.cross_entropy(logits, token_ids[hidden])
