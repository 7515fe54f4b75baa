"""The original's state dict -> a folder that loads with no network."""

from __future__ import annotations

from pathlib import Path

from .baselines.blip import BlipScorer
from .checkpoint import build_model, read_state_dict, save_folder
from .config import BlipConfig, RewardConfig, read_json

from .hub import fetch
from .registry import VOCABULARY
from .reward_model import RewardModel
from .scorer import ScoringModel
from .tokenizer import PromptTokenizer


def convert_checkpoint(
    state_dict: Path, out: Path, config: Path | None = None, vocab: Path | None = None
) -> ScoringModel:
    """Read ``state_dict`` strictly, write the folder ``out`` and return the model that is in it.

    Args:
        state_dict: ImageReward's .pt, BLIP's model_large.pth, or a .safetensors of either.
        out: folder for config.json, model.safetensors and the tokenizer.
        config: a config.json with the sizes; without it they are ImageReward-v1.0's (BLIP large's).
        vocab: BERT's vocab.txt; without it, it is fetched from the hub.

    Raises:
        CheckpointError: a file is damaged or does not fit. HubError: no vocabulary to be had.
    """
    state = read_state_dict(state_dict)
    if any(key.startswith("mlp.") for key in state) or not any(key.startswith("blip.") for key in state):
        model_class: type[ScoringModel] = RewardModel
        sizes: BlipConfig = RewardConfig.imagereward_v1()
    else:
        model_class, sizes = BlipScorer, BlipConfig()
    if config is not None:
        sizes = type(sizes).from_dict(read_json(config), str(config))
    tokenizer = PromptTokenizer.from_vocab(vocab or fetch(VOCABULARY), sizes.max_length)
    model = build_model(model_class, sizes, tokenizer, state, str(state_dict))
    save_folder(model, out)
    return model
