"""Check names and paths of a run before torch is imported and a model is loaded."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable

from reward_core.hub.file_specs import is_repo_id
from reward_core.models.registry import BUNDLED_MODELS, REWARD_MODELS, SCORES

from .config import TrainConfig
from .errors import ConfigError, ModelError, RewardError
from .prompts import read_prompts


def check_inputs(config: TrainConfig) -> None:
    """Raise the error of the first input that cannot work: prompts, rewards, model, output folder.

    Raises:
        PromptFileError: a file of prompts that cannot be read.
        RewardError: a reward that is neither a known name nor a file, folder or hub id.
        ModelError: a model that is neither a file or folder nor a hub id.
        ConfigError: no file of prompts, or an output folder that is a file.
    """
    if not config.prompts:
        raise ConfigError("prompts: no file of prompts given; set --prompts FILE")
    read_prompts(config.prompts)
    check_rewards(reward.name for reward in config.rewards)
    check_model(config.model.id)
    check_out(config.run.out)


def check_rewards(names: Iterable[str], functions: Collection[str] = ()) -> None:
    """Raise RewardError for a name that is no function's and that reward_core cannot load.

    Args:
        names: of the rewards.
        functions: names of rewards that are the caller's own functions.
    """
    known = [*REWARD_MODELS, *BUNDLED_MODELS, *SCORES]
    for name in names:
        if name in functions or name in known or os.path.exists(name) or is_repo_id(name):
            continue
        near = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1, cutoff=0.5)
        hint = next((f"Did you mean {k!r}? " for k in known if near and k.lower() == near[0]), "")
        raise RewardError(
            f"Cannot load the reward {name!r}: it is neither a known name nor a folder or file, nor the id "
            f"of a hub repository. {hint}Known names: {', '.join(known)}."
        )


def check_model(name: str) -> None:
    """Raise ModelError for a model that is neither a folder or file nor the id of a hub repository."""
    if not os.path.exists(name) and not is_repo_id(name):
        raise ModelError(
            f"Cannot load the model {name!r}: there is no such folder or file, and it is not the id of a hub "
            "repository (OWNER/NAME). Check the path."
        )


def check_out(folder: str | os.PathLike[str]) -> None:
    """Raise ConfigError if the output folder exists as a file."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ConfigError(f"Cannot write to '{os.fspath(folder)}': it is a file. Name a folder with --out.")
