"""Tiny files of HPSv3 and HPSv3++ for tools/make_tiny_checkpoint.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor, nn

from reward_core.models.model_spec import ModelSpec
from reward_core.models.vlm.config import read_vlm_config
from reward_core.models.vlm.hpsv3 import HPSv3Scorer
from reward_core.models.vlm.hpsv3_plus_plus import HPSv3PlusPlusScorer
from reward_core.models.vlm.prompts import VlmTokenizer
from reward_core.models.vlm.scorer import VlmScorer

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
ROTARY = {"rope_type": "default", "mrope_section": [4, 2, 2]}
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "rms_norm_eps": 1e-6,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {
        **TEXT,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": {
            "depth": 2, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2, "patch_size": 14,
        },
    },
    "qwen3_vl": {
        "text_config": {**TEXT, "head_dim": 16, "rope_theta": 5e6, "rope_scaling": ROTARY},
        "vision_config": {
            "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 16,
            "out_hidden_size": 32, "num_position_embeddings": 144, "deepstack_visual_indexes": [0, 1],
        },
    },
}  # fmt: skip

FAMILIES: tuple[type[VlmScorer], ...] = (HPSv3Scorer, HPSv3PlusPlusScorer)


def make_vlm(spec: ModelSpec, out: Path, seed: int, fill: Callable[[nn.Module, int], None]) -> None:
    """Write the files of a scorer with a vision-language model."""
    family = next(kind for kind in FAMILIES if spec.family.endswith(f":{kind.__name__}"))
    content = {"model_type": family.model_type, **CONFIGS[family.model_type]}
    preprocessor = {
        "patch_size": content["vision_config"]["patch_size"], "merge_size": 2, "temporal_patch_size": 2,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "size": {"shortest_edge": 65536, "longest_edge": 16777216},
    }  # fmt: skip
    tokenizer = byte_tokenizer()
    text = VlmTokenizer(tokenizer, TEMPLATE, family.text, "template", 32768)
    config = read_vlm_config(content, preprocessor, family.model_type, "config.json")
    model = family(config.with_sizes(text.rows, 24), text).to_empty(device="cpu")
    fill(model, seed)
    weights = out / spec.parts["weights"].names[0]
    if weights.suffix == ".safetensors":
        save_file(published_keys(model), weights, metadata={"format": "pt"})
    else:
        torch.save(published_keys(model), weights)
    tokenizer.save(str(out / "tokenizer.json"))
    for name, part in (("config", content), ("preprocessor", preprocessor)):
        (out / spec.parts[name].names[0]).write_text(json.dumps(part, indent=1))
    (out / spec.parts["chat_template"].names[0]).write_text(json.dumps({"chat_template": TEMPLATE}))


def byte_tokenizer() -> Tokenizer:
    """Return a byte-pair tokenizer of single bytes with the special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return tokenizer


def published_keys(model: VlmScorer) -> dict[str, Tensor]:
    """Return the weights under the published keys, with a language head."""
    prefixes = {"backbone.": ""}
    if model.model_type == "qwen2_vl":
        prefixes = {"backbone.model.visual.": "visual.", "backbone.model.language_model.": "model."}
    state = {"lm_head.weight": torch.zeros(model.config.rows, model.config.width)}
    for key, value in model.state_dict().items():
        own = next((prefix for prefix in prefixes if key.startswith(prefix)), "head.")
        state[prefixes.get(own, "") + key.removeprefix(own)] = value.contiguous()
    return state
