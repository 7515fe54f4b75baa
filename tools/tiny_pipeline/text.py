"""A tokenizer with one token per word, and a CLIP text encoder.

The encoder learns to classify what a prompt names: color, shape and size of each thing, and the relation.
Its last tokens therefore encode the scene attribute by attribute before the UNet is trained, which lets the
UNet generalize to new combinations of known attributes.
"""

from __future__ import annotations

import math
import random
import string
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from refl.demo.scenes import sample_scene
from reward_core.shapes import COLORS, SHAPES, VOCABULARY, Scene, phrase

LENGTH = 16  # tokens; the longest prompt has 14 words
START, END = "<|startoftext|>", "<|endoftext|>"
WIDTH, LAYERS, HEADS = 128, 3, 4
ANSWERS = (len(COLORS) + 1, len(SHAPES) + 1, 3) * 2 + (3,)  # classes; the last of each means "none"
BATCH, LEARNING_RATE, EMPTY = 64, 2e-3, 0.03


def make_tokenizer() -> CLIPTokenizer:
    """Build a CLIP tokenizer whose byte-pair merges give one token per word."""
    merges = _merges(VOCABULARY)
    letters = list(string.ascii_lowercase)
    tokens = dict.fromkeys([*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges)])
    vocabulary = {token: i for i, token in enumerate([*tokens, START, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def tokens_of(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Tensor:
    """Tokenize prompts to ids (B, 16), like StableDiffusionPipeline."""
    options = {"padding": "max_length", "max_length": LENGTH, "truncation": True, "return_tensors": "pt"}
    return tokenizer(list(prompts), **options).input_ids


def train_text_encoder(
    tokenizer: CLIPTokenizer, steps: int, seed: int, on_step: Callable[[int, float], None]
) -> CLIPTextModel:
    """Train a text encoder and freeze it; ``on_step`` gets number and loss."""
    torch.manual_seed(seed)
    end = tokenizer.convert_tokens_to_ids(END)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.convert_tokens_to_ids(START),
        eos_token_id=end,
        pad_token_id=end,
    )
    encoder = CLIPTextModel(config)
    for module in encoder.modules():  # CLIP's initial 0.02 is too small for this few steps
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.3)
    heads = nn.ModuleList(nn.Linear(WIDTH, count) for count in ANSWERS)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    rng = np.random.default_rng([seed, 1])
    for step in range(steps):
        for group in optimizer.param_groups:
            decay = 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 50) * (decay + 0.01)
        scenes = [None if rng.random() < EMPTY else sample_scene(rng, "train", 0.7) for _ in range(BATCH)]
        ids = tokens_of(tokenizer, ["" if scene is None else phrase(scene, rng) for scene in scenes])
        hidden = encoder(ids).last_hidden_state  # (B, 16, D)
        targets = torch.tensor([_answers(scene) for scene in scenes])  # (B, 7)
        first_end = (ids == end).int().argmax(1)
        # Both positions attend to the whole prompt; the padding between them learns it as well.
        states = (hidden[:, -1], hidden[torch.arange(BATCH), first_end])
        loss = sum(cross_entropy(head(at), targets[:, k]) for at in states for k, head in enumerate(heads))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        on_step(step + 1, loss.item())
    return encoder.requires_grad_(False).eval()


def _answers(scene: Scene | None) -> list[int]:
    things = scene.things if scene else ()
    answers = []
    for k in range(2):
        if k < len(things):
            thing = things[k]
            answers += [COLORS.index(thing.color), SHAPES.index(thing.shape), int(thing.size is not None)]
        else:
            answers += [len(COLORS), len(SHAPES), 2]
    relation = scene.relation if scene else None
    return [*answers, 2 if relation is None else ("left of", "above").index(relation)]


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges that give one token per word."""
    order, rng = list(words), random.Random(0)
    while True:
        merges = list(dict.fromkeys(pair for word in order for pair in _chain(word)))
        ranks = {pair: rank for rank, pair in enumerate(merges)}
        split_words = [word for word in words if not _is_one_token(word, ranks)]
        if not split_words:
            return merges
        intact = [word for word in order if word not in split_words]
        order = [*split_words, *intact] if rng.random() < 0.7 else rng.sample(order, len(order))


def _chain(word: str) -> list[tuple[str, str]]:
    parts = _letters(word)
    return [("".join(parts[:i]), parts[i]) for i in range(1, len(parts))]


def _is_one_token(word: str, ranks: dict[tuple[str, str], int]) -> bool:
    parts = _letters(word)
    while len(parts) > 1:
        pairs = list(pairwise(parts))
        best = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks)))
        if pairs[best] not in ranks:
            return False
        parts[best : best + 2] = ["".join(pairs[best])]
    return True


def _letters(word: str) -> list[str]:
    return [*word[:-1], f"{word[-1]}</w>"]
