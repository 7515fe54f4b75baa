"""Pre-train on images and prompts, for models trained from scratch: contrast, matching, masked words.

The first two losses are BLIP's (arXiv 2201.12086, section 3.2), the third is ALBEF's (arXiv 2107.07651,
section 3.2).

A reward model that starts from random weights and sees only rankings stays at a loss of log 2 for long: a
comparison is one bit of information, and using it requires recognizing shapes, reading words and relating
the two. Pairs of an image and its prompt teach that directly.

Shapes: B batch, K prompts per image, S image side.
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
from ..runs.cuda import upload


@dataclass(frozen=True)
class CaptionedImage:
    """An image with its prompt and with prompts that almost describe it.

    Attributes:
        image: (S, S, 3) uint8, S being the model's image size.
        prompt: the prompt of the image.
        near_misses: K - 1 prompts that differ slightly; K is the same for all images of a batch.
    """

    image: np.ndarray
    prompt: str
    near_misses: tuple[str, ...]


def caption_loss(
    model: RewardModel, batch: Sequence[CaptionedImage], scale: float = 1 / 0.07, masked: float = 0.4
) -> Tensor:
    """Return the sum of the contrastive, matching and masked-word losses, a scalar.

    Contrastive: each image's projected class token is matched with its prompt's projected [CLS] within
    the batch (cross-entropy in both directions over cosines times ``scale``). Matching: with the image,
    its prompt must have a higher reward than each near miss (-log sigmoid of the difference). Masked
    words: a random fraction of the prompt's words, drawn twice, is predicted from the image
    (cross-entropy over the word embeddings); this loss teaches a small model to see fastest.

    Args:
        model: the model.
        batch: images with prompts.
        scale: inverse temperature of the contrastive loss.
        masked: fraction of the words to mask, drawn from torch's global generator.
    """
    prompts = [prompt for item in batch for prompt in (item.prompt, *item.near_misses)]
    per_image = len(prompts) // len(batch)  # K
    images = torch.from_numpy(np.stack([item.image for item in batch]))
    images = upload(images, model.device)
    image_tokens = model.encode_pixels(model.transform.from_uint8(images))  # (B, N, E)
    token_ids, mask = (upload(t, model.device) for t in model.tokenizer(prompts))  # (B K, L)
    true_ids, true_mask = token_ids[::per_image], mask[::per_image]  # (B, L), without near misses

    blip = model.blip
    image_features = F.normalize(blip.vision_proj(image_tokens[:, 0]), dim=-1)  # (B, P)
    text_features = F.normalize(blip.text_proj(blip.encode_text(true_ids, true_mask)), dim=-1)  # (B, P)
    logits = scale * image_features @ text_features.T  # (B, B)
    targets = torch.arange(len(batch), device=logits.device)
    contrast = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2

    cross_attention_kv = model.project_kv(image_tokens)  # once for all prompts of an image
    kv_per_prompt = [
        (keys.repeat_interleave(per_image, 0), values.repeat_interleave(per_image, 0))
        for keys, values in cross_attention_kv
    ]
    rewards = model.rewards_from_kv(kv_per_prompt, token_ids, mask)
    rewards = rewards.view(len(batch), per_image)  # column 0: the true prompt
    matching = F.softplus(rewards[:, 1:] - rewards[:, :1]).mean()

    twice = [(keys.repeat(2, 1, 1), values.repeat(2, 1, 1)) for keys, values in cross_attention_kv]
    words = _masked_word_loss(model, twice, true_ids.repeat(2, 1), true_mask.repeat(2, 1), masked)
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
    assert mask_id is not None  # checked when the tokenizer was loaded
    special = torch.isin(token_ids, upload(torch.tensor(list(ids.values())), token_ids.device))
    hidden = (torch.rand(token_ids.shape, device=token_ids.device) < share) & ~special  # (B, L)
    features = model.blip.text_encoder(token_ids.masked_fill(hidden, mask_id), mask, cross_attention_kv)
    logits = features[hidden] @ model.blip.text_encoder.embeddings.word_embeddings.weight.T  # (M, vocabulary)
    return F.cross_entropy(logits, token_ids[hidden])
