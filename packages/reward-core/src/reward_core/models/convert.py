"""Conversion of a checkpoint of the original to a folder that loads offline."""

from __future__ import annotations

from pathlib import Path

from ..files.json_file import read_json
from ..inputs.tokenizer import PromptTokenizer
from ..scoring.scoring_model import ScoringModel
from .blip.scorer import BlipScorer
from .checkpoint import build_model, read_state_dict, save_folder
from .imagereward.reward_model import RewardModel
from .model_files import tokenizer_beside
from .pretrained import Pretrained


def convert_checkpoint(
    state_dict: Path, out: Path, config: Path | None = None, vocab: Path | None = None
) -> ScoringModel:
    """Convert a checkpoint to a model folder and return the model.

    Args:
        state_dict: ImageReward's .pt, BLIP's model_large.pth, or a .safetensors of either.
        out: folder for config.json, model.safetensors and the tokenizer.
        config: a config.json with the sizes. The default is the one in the folder of ``state_dict``, or else
            the sizes of ImageReward-v1.0 (BLIP large).
        vocab: a vocab.txt. The default is the one in the folder of ``state_dict``, or else BERT's from the
            hub.

    Raises:
        CheckpointError: a file is damaged or does not match the model.
        HubError: the vocabulary cannot be downloaded.
    """
    state = read_state_dict(state_dict)
    if any(key.startswith("mlp.") for key in state) or not any(key.startswith("blip.") for key in state):
        model_class: type[Pretrained] = RewardModel
    else:
        model_class = BlipScorer
    if config is not None:
        sizes = model_class.config_class.from_dict(read_json(config), str(config))
    else:
        sizes = model_class.config_beside(state_dict)

    def find_tokenizer() -> PromptTokenizer:
        if vocab is not None:
            return PromptTokenizer.from_vocab(vocab, sizes.max_length)
        return tokenizer_beside(state_dict, sizes.max_length)

    model = build_model(model_class, sizes, state, str(state_dict), find_tokenizer)
    save_folder(model, out)
    return model
