"""Load or build the initial model of a run: from BLIP weights, a reward model, or random weights."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CheckpointError, InputError
from ..files.json_file import read_json
from ..hub.downloads import fetch
from ..models.blip.published import BLIP_WEIGHTS
from ..models.checkpoint import build_model, read_state_dict
from ..models.imagereward.reward_model import RewardModel
from ..models.model_files import tokenizer_beside
from ..models.model_spec import CONFIG_FILE, WEIGHTS_FILE
from ..models.registry import find_spec
from ..network.config import BlipConfig, RewardConfig
from ..network.encoder_sizes import TextConfig
from ..scoring.model_source import ModelSource
from .config import TrainingConfig
from .initialize import initialize_from_scratch

_POSITIONS = "blip.visual_encoder.pos_embed"
_HEAD_WIDTH = 64  # width of an attention head in BERT and in all ViTs of BLIP


def starting_model(settings: TrainingConfig) -> RewardModel:
    """Return the model of ``settings.init``: float32, on the CPU, frozen, rewards not standardized.

    Raises:
        InputError: there is no such model, or a size is invalid.
        CheckpointError: files are damaged, or the weights are neither BLIP's nor a reward model's.
        KeyMismatchError: weights are missing or unexpected.
        HubError: a download failed.
    """
    if settings.init == "scratch":
        model = _from_scratch(settings)
    elif settings.init == "blip-large":
        model = _from_weights(fetch(BLIP_WEIGHTS), settings)
    elif find_spec(settings.init) is None and os.path.exists(settings.init):
        path = Path(settings.init)
        model = _from_weights(path / WEIGHTS_FILE if path.is_dir() else path, settings)
    else:
        model = RewardModel.from_pretrained(settings.init, device="cpu")
    if settings.timm:
        from ..models.imagereward.timm_tower import with_timm_tower

        width = model.config.vision_width
        model = with_timm_tower(model, settings.timm, settings.timm_pretrained, settings.image_size)
        if model.config.vision_width != width and settings.frozen_share("text"):
            raise InputError(
                f"Cannot freeze text layers with timm={settings.timm}: its width is "
                f"{model.config.vision_width} instead of {width}, so the cross-attention of every text layer "
                "must be retrained. Set freeze_text=0."
            )
    state = model.state_dict()
    if settings.head_init and settings.init != "scratch":
        state |= head_weights(model.config, settings.head_init, settings.seed)
    config = replace(model.config, reward_mean=0.0, reward_std=1.0, score_quantiles=None)
    config = _with_dropout(config, settings)
    if settings.image_size and not settings.timm:
        config, state = _resized(config, state, settings.image_size)
    tokenizer = model.tokenizer
    started = build_model(RewardModel, config, state, settings.init, lambda: tokenizer)
    started.source = model.source
    return started


def head_weights(config: RewardConfig, kind: str, seed: int) -> dict[str, Tensor]:
    """Return the weights of a new reward head by state-dict key; biases are 0.

    Args:
        config: sizes of the head.
        kind: "original" draws every layer from normal(0, 1 / (D + 1)), where D is the width of the text
            encoder; five such layers scale their input by about 1e-6, so all rewards start equal and the
            loss starts at log 2. "scaled" draws from normal(0, 1 / sqrt(inputs)), so rewards start at
            the scale of the features.
        seed: seed of the draw.
    """
    if kind not in ("original", "scaled"):
        raise InputError(f"Cannot use head_init={kind!r}: it must be 'original' or 'scaled'.")
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    index = 0
    for i, (inputs, outputs) in enumerate(pairwise(config.reward_mlp)):
        std = 1 / (config.reward_mlp[0] + 1) if kind == "original" else inputs**-0.5
        state[f"mlp.layers.{index}.weight"] = torch.randn(outputs, inputs, generator=generator) * std
        state[f"mlp.layers.{index}.bias"] = torch.zeros(outputs)
        # Dropout layers and activations have indices too.
        index += 1 + (i < len(config.head_dropout)) + bool(config.head_activation)
    return state


def sizes_of(state: dict[str, Tensor], source: str) -> BlipConfig:
    """Return the configuration of a BLIP model, inferred from the shapes of its weights.

    Args:
        state: weights by name; attention heads are assumed to be 64 wide.
        source: name of the weights in errors.
    """
    try:
        _, tokens, width = state[_POSITIONS].shape
        patch = state["blip.visual_encoder.patch_embed.proj.weight"].shape[-1]
        words, text_width = state["blip.text_encoder.embeddings.word_embeddings.weight"].shape
        hidden = state["blip.visual_encoder.blocks.0.mlp.fc1.weight"].shape[0]
        inner = state["blip.text_encoder.encoder.layer.0.intermediate.dense.weight"].shape[0]
        positions = state["blip.text_encoder.embeddings.position_embeddings.weight"].shape[0]
        proj = state["blip.text_proj.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(
            f"Cannot load '{source}': neither BLIP weights nor a reward model (no key {error})."
        ) from error
    grid = round((tokens - 1) ** 0.5)
    text = TextConfig(
        vocab_size=words,
        hidden_size=text_width,
        num_hidden_layers=_count(state, r"blip\.text_encoder\.encoder\.layer\.(\d+)\."),
        num_attention_heads=max(text_width // _HEAD_WIDTH, 1),
        intermediate_size=inner,
        max_position_embeddings=positions,
        encoder_width=width,
    )
    return BlipConfig(
        image_size=grid * patch,
        patch_size=patch,
        vision_width=width,
        vision_depth=_count(state, r"blip\.visual_encoder\.blocks\.(\d+)\."),
        vision_heads=max(width // _HEAD_WIDTH, 1),
        vision_mlp_ratio=hidden / width,
        proj_dim=proj,
        vocab_lines=words - 2,
        dec_token_id=words - 2,
        enc_token_id=words - 1,
        text=text,
    )


def interpolated_positions(positions: Tensor, grid: int) -> Tensor:
    """Return position embeddings (1, 1 + G*G, D) interpolated (bicubic) to (1, 1 + grid*grid, D).

    The class token's embedding is unchanged.
    """
    old = round((positions.shape[1] - 1) ** 0.5)
    if old == grid:
        return positions
    squares = positions[:, 1:].float().unflatten(1, (old, old)).permute(0, 3, 1, 2)  # (1, D, G, G)
    squares = F.interpolate(squares, (grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1].float(), squares.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _from_scratch(settings: TrainingConfig) -> RewardModel:
    if settings.architecture:
        folder = Path(settings.architecture)
        path = folder / CONFIG_FILE
        config = RewardConfig.from_dict(read_json(path), str(path))
    else:
        folder, config = Path(), RewardConfig()
    tokenizer = tokenizer_beside(folder / WEIGHTS_FILE, config.max_length)
    model = RewardModel(config, tokenizer)
    initialize_from_scratch(model, settings.seed)
    if settings.head_init:
        model.mlp.load_state_dict(
            {k[len("mlp.") :]: v for k, v in head_weights(config, settings.head_init, settings.seed).items()}
        )
    return model


def _from_weights(path: Path, settings: TrainingConfig) -> RewardModel:
    state = read_state_dict(path)
    if any(key.startswith("mlp.") for key in state):
        return RewardModel.from_pretrained(path, device="cpu")
    beside = path.parent / CONFIG_FILE
    if beside.is_file():
        sizes = BlipConfig.from_dict(read_json(beside), str(beside))
    else:
        sizes = sizes_of(state, str(path))
    values: dict[str, Any] = {f.name: getattr(sizes, f.name) for f in dataclasses.fields(BlipConfig)}
    config = RewardConfig(**values, reward_mlp=(sizes.text.hidden_size, *RewardConfig.reward_mlp[1:]))
    state |= head_weights(config, settings.head_init or "scaled", settings.seed)
    model = build_model(
        RewardModel, config, state, str(path), lambda: tokenizer_beside(path, config.max_length)
    )
    model.source = ModelSource(settings.init, (path,))
    return model


def _with_dropout(config: RewardConfig, settings: TrainingConfig) -> RewardConfig:
    changes: dict[str, Any] = {}
    if settings.drop_path >= 0:
        changes["vision_drop_path"] = settings.drop_path
    if settings.head_dropout >= 0:
        changes["head_dropout"] = tuple(settings.head_dropout for _ in config.head_dropout)
    if settings.dropout >= 0:
        rate = settings.dropout
        changes["text"] = replace(config.text, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)
    return replace(config, **changes)


def _resized(
    config: RewardConfig, state: dict[str, Tensor], size: int
) -> tuple[RewardConfig, dict[str, Tensor]]:
    if size % config.patch_size:
        raise InputError(
            f"Cannot use image_size={size}: it must be a multiple of {config.patch_size}, the patch size."
        )
    positions = interpolated_positions(state[_POSITIONS], size // config.patch_size)
    return replace(config, image_size=size), {**state, _POSITIONS: positions}


def _count(state: dict[str, Tensor], pattern: str) -> int:
    return 1 + max(int(match[1]) for key in state if (match := re.match(pattern, key)))
