"""Published layouts of MPS and Aesthetic predictor v2.5, for make_tiny_checkpoint.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from reward_core.models.mps.config import MpsConfig
from reward_core.models.mps.scorer import MpsScorer
from reward_core.models.siglip.scorer import SiglipScorer

# The authors' names in a block that attends to the prompt (0) and in one that attends to the image (1).
_MPS_NAMES = (
    {"ff_in": "ff.0", "ff_out": "ff.2"},
    {"ff_out": "ff_out.1", "to_out": "attn_out"},
)
_FUSED = ("to_q", "to_kv", "ff_in")


def mps_layout(model: MpsScorer) -> dict[str, Tensor]:
    """Return the weights of MPS under imscore's names."""
    state = model.state_dict()
    result = {f"mps.model.{key[5:]}": value for key, value in state.items() if key.startswith("clip.")}
    for layer in range(model.config.cross_depth):
        ours, theirs = f"cross_model.layers.{layer}", f"mps.cross_model.layers.{layer}"
        for i, block in enumerate(("text", "image")):
            for key in [key for key in state if key.startswith(f"{ours}.{block}.")]:
                name, _, leaf = key[len(f"{ours}.{block}.") :].rpartition(".")
                if not (i and name in _FUSED):
                    result[f"{theirs}.{i}.fn.{_MPS_NAMES[i].get(name, name)}.{leaf}"] = state[key]
        fused = [state[f"{ours}.image.{name}.weight"] for name in _FUSED]
        result[f"{theirs}.1.fn.fused_attn_ff_proj.weight"] = torch.cat(fused)
        result[f"{theirs}.1.fn.rotary_emb.inv_freq"] = state[f"{ours}.rotary.inv_freq"]
    return result


def write_mps(model: MpsScorer, out: Path, weights: str) -> None:
    """Write weights, the sizes of CLIP and those of the cross model."""
    config: MpsConfig = model.config
    save_file({key: value.contiguous() for key, value in mps_layout(model).items()}, out / weights)
    (out / "config.json").write_text(json.dumps({**model.clip.config.to_dict(), "model_type": "clip"}))
    cross = {
        "layer_num": config.cross_depth,
        "heads": config.cross_heads,
        "dim_head": config.cross_head_width,
        "ff_mult": config.cross_ff // config.proj_dim,
    }
    (out / "cross_model.json").write_text(json.dumps(cross))


def write_siglip(model: SiglipScorer, out: Path, weights: str, head: str) -> None:
    """Write SigLIP's weights, with a text tower that scoring does not use, and the head in bfloat16."""
    config, state = model.config, model.state_dict()
    tower = {key: value for key, value in state.items() if key.startswith("vision_model.")}
    for leaf in ("weight", "bias"):
        parts = [tower.pop(f"vision_model.head.attention.{p}_proj.{leaf}") for p in "qkv"]
        tower[f"vision_model.head.attention.in_proj_{leaf}"] = torch.cat(parts)
    unused = {"text_model.head.weight": torch.zeros(2, 2), "logit_scale": torch.zeros(1)}
    save_file(tower | unused, out / weights)
    layers = {key: value for key, value in state.items() if key.startswith("head.layers.")}
    published = {f"scoring_head.{key[len('head.layers.') :]}": v.bfloat16() for key, v in layers.items()}
    torch.save(published, out / head)
    sizes: dict[str, Any] = {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_size": config.vision_width,
        "num_hidden_layers": config.vision_depth,
        "num_attention_heads": config.vision_heads,
        "intermediate_size": config.vision_mlp,
    }
    (out / "config.json").write_text(json.dumps({"model_type": "siglip", "vision_config": sizes}))
