"""Tiny files of VQAScore for tools/make_tiny_checkpoint.py."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from reward_core.models.model_spec import ModelSpec
from reward_core.models.shard_index import is_index
from reward_core.models.vqascore.config import VqaConfig
from reward_core.models.vqascore.network import ClipT5
from reward_core.models.vqascore.questions import QuestionTokenizer
from reward_core.models.vqascore.spiece_file import CONTROL, NORMAL, UNKNOWN
from reward_core.models.vqascore.weights import published_key

SIZES = {
    "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "mm_hidden_size": 32,
}  # fmt: skip
VISION_SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 56, "patch_size": 14,
}  # fmt: skip
SHARDS = 3


def make_vqascore(spec: ModelSpec, out: Path, seed: int, fill: Callable[[nn.Module, int], None]) -> None:
    """Write the files of VQAScore: weights as torch files, in shards if they are published so."""
    write_spiece(out / "spiece.model")
    tokenizer = QuestionTokenizer.from_file(out / "spiece.model")
    config = VqaConfig(
        image_size=56, vision_width=32, vision_depth=3, vision_heads=2, vision_mlp=64, text_width=32,
        text_heads=2, head_width=8, text_mlp=48, encoder_depth=2, decoder_depth=2, vocab_size=tokenizer.rows,
    )  # fmt: skip
    model = ClipT5(config)
    fill(model, seed)
    state = {published_key(key): parameter.detach() for key, parameter in model.named_parameters()}
    weights = out / spec.parts["weights"].names[0]
    if is_index(weights.name):
        names = {key: f"pytorch_model-{i % SHARDS + 1:05}-of-{SHARDS:05}.bin" for i, key in enumerate(state)}
        for name in set(names.values()):
            torch.save({key: state[key] for key in state if names[key] == name}, out / name)
        weights.write_text(json.dumps({"weight_map": names}))
    else:
        torch.save(state, weights)
    (out / "config.json").write_text(json.dumps({**SIZES, "vision_config": VISION_SIZES}, indent=1))


def write_spiece(path: Path) -> None:
    """Write a SentencePiece model of single characters without rules for characters."""
    pieces = [("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN)]
    characters = ["\u2581", *(chr(i) for i in range(33, 127))]
    pieces += [(character, -1.0 - i / 100, NORMAL) for i, character in enumerate(characters)]
    content = b"".join(_field(1, _piece(*piece)) for piece in pieces)
    path.write_bytes(content)


def _piece(text: str, score: float, kind: int) -> bytes:
    return _field(1, text.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", score) + bytes([3 << 3, kind])


def _field(number: int, content: bytes) -> bytes:
    assert len(content) < 128, "the length would need two bytes"
    return bytes([number << 3 | 2, len(content)]) + content
