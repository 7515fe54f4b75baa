"""Pre-training on images and prompts, for models made from nothing: contrast, matching, masked words.

The first two are BLIP's (arXiv 2201.12086, section 3.2), the third ALBEF's (arXiv 2107.07651,
section 3.2).

A reward model that starts from random weights and sees only rankings stays at log 2 for long: a
comparison is one bit, and to earn it the model must already see shapes, read words and bind the two.
Pairs of an image and its prompt teach those directly.

Letters in shape comments: B batch, K prompts per image, S image side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..inputs.tokenizer import SPECIAL_TOKENS
from ..models.imagereward.reward_model import RewardModel
from ..network.text_encoder import KeysValues


@dataclass(frozen=True)
class CaptionedImage:
    """An image, its prompt, and prompts that almost, but not quite, describe it.

    image: (S, S, 3) uint8 at the model's side; near_misses: K - 1 prompts, as many for every
    image of a batch.
    """

    image: np.ndarray
    prompt: str
    near_misses: tuple[str, ...]


def caption_loss(
    model: RewardModel, batch: Sequence[CaptionedImage], scale: float = 1 / 0.07, masked: float = 0.4
) -> Tensor:
    """Contrast, matching and masked words, a scalar.

    Contrast: among the batch, each image's projected class token and its prompt's projected [CLS]
    find each other (cross-entropy both ways, cosines times ``scale``). Matching: read beside the
    image, its prompt gets a higher reward than each near miss (-log sigmoid of the difference).
    Masked words: a share ``masked`` of the prompt's words is hidden, twice over, and read off the
    image (cross-entropy against the word embeddings); this is what teaches a small model fastest
    to see. The hiding draws from torch's global generator.
    """
    prompts = [prompt for item in batch for prompt in (item.prompt, *item.near_misses)]
    kinds = len(prompts) // len(batch)  # K
    images = torch.from_numpy(np.stack([item.image for item in batch]))
    image_tokens = model.encode_pixels(model.transform.from_uint8(images))  # (B, N, E)
    token_ids, mask = (t.to(model.device) for t in model.tokenizer(prompts))  # (B K, L)
    own_ids, own_mask = token_ids[::kinds], mask[::kinds]  # (B, L)

    blip = model.blip
    seen = F.normalize(blip.vision_proj(image_tokens[:, 0]), dim=-1)  # (B, P)
    read = F.normalize(blip.text_proj(blip.encode_text(own_ids, own_mask)), dim=-1)  # (B, P)
    logits = scale * seen @ read.T  # (B, B)
    own = torch.arange(len(batch), device=logits.device)
    contrast = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    cross_attention_kv = model.project_kv(image_tokens)  # once for all prompts of an image
    for_each = [
        (keys.repeat_interleave(kinds, 0), values.repeat_interleave(kinds, 0))
        for keys, values in cross_attention_kv
    ]
    rewards = model.rewards_from_kv(for_each, token_ids, mask)
    rewards = rewards.view(len(batch), kinds)  # column 0: the image's own prompt
    matching = F.softplus(rewards[:, 1:] - rewards[:, :1]).mean()

    twice = [(keys.repeat(2, 1, 1), values.repeat(2, 1, 1)) for keys, values in cross_attention_kv]
    words = _masked_word_loss(model, twice, own_ids.repeat(2, 1), own_mask.repeat(2, 1), masked)
    return contrast + matching + 2 * words


def _masked_word_loss(
    model: RewardModel,
    cross_attention_kv: Sequence[KeysValues],
    token_ids: Tensor,
    mask: Tensor,
    share: float,
) -> Tensor:
    ids = {name: model.tokenizer.fast_tokenizer.token_to_id(name) for name in SPECIAL_TOKENS}
    mask_id = ids["[MASK]"]
    assert mask_id is not None  # the tokenizer checks that it has the special tokens
    special = torch.isin(token_ids, torch.tensor(list(ids.values()), device=token_ids.device))
    hidden = (torch.rand(token_ids.shape, device=token_ids.device) < share) & ~special  # (B, L)
    features = model.blip.text_encoder(token_ids.masked_fill(hidden, mask_id), mask, cross_attention_kv)
    logits = features[hidden] @ model.blip.text_encoder.embeddings.word_embeddings.weight.T  # (M, vocabulary)
    return F.cross_entropy(logits, token_ids[hidden])
