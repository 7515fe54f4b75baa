"""Check the names, paths and downloads of a run before importing torch and loading a model."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable

from reward_core.hub.file_specs import is_repo_id
from reward_core.models.judges.published import JUDGE_FAMILY
from reward_core.models.registry import find_spec, unknown_scorer

from ..config import TrainConfig
from ..data.prompts import read_prompts
from ..errors import ConfigError, ModelError, RewardError
from .hub_checks import check_pipeline_folder, check_reward_downloads, pipeline_index

IMPORT_PATH = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")


def check_inputs(config: TrainConfig, weights: bool = True) -> None:
    """Raise an error for the first invalid input: prompts, rewards, model, output folder.

    Args:
        config: settings of the run.
        weights: check too that the weights of rewards are on this machine or on the hub.

    Raises:
        PromptFileError: the prompt file cannot be read.
        RewardError: a reward is neither a known name nor a file or folder, nor on the hub.
        ModelError: the model is neither a file or folder nor on the hub.
        ConfigError: no prompt file is given, or the output folder is a file.
    """
    if not config.prompts:
        raise ConfigError("Cannot train: no file of prompts is given. Set --prompts FILE.")
    read_prompts(config.prompts)
    if config.validation.prompts_file:
        read_prompts(config.validation.prompts_file)
    check_reward_names(config)
    check_model(config.model.id)
    check_out(config.run.out)
    check_pipeline(config)
    if weights:
        check_reward_downloads(reward.name for reward in config.rewards)


def check_pipeline(config: TrainConfig) -> None:
    """Raise ModelError if the model is neither a pipeline on this machine nor on the hub."""
    check_pipeline_folder(config.model.id)
    if not os.path.exists(config.model.id):
        pipeline_index(config.model.id, config.model.revision)


def check_downloads(config: TrainConfig, functions: Collection[str] = ()) -> None:
    """Raise an error if the model or a reward is neither on this machine nor on the hub.

    Args:
        config: names the model and the rewards.
        functions: names of rewards for which the caller passes a function.

    Raises:
        ModelError: the model is missing.
        RewardError: a reward is missing.
    """
    check_pipeline(config)
    names = [reward.name for reward in config.rewards if reward.name not in functions]
    check_reward_downloads(name for name in names if not is_import_path(name))


def check_reward_names(config: TrainConfig, functions: Collection[str] = ()) -> None:
    """Raise an error for invalid reward names before anything is loaded.

    Raises:
        RewardError: a name is neither that of a function nor loadable by reward_core.
        ConfigError: no reward has the name of a function.
    """
    names = [reward.name for reward in config.rewards]
    if unused := [name for name in functions if name not in names]:
        raise ConfigError(
            f"Cannot use the reward functions {', '.join(map(repr, unused))}: the settings' rewards are "
            f"{', '.join(map(repr, names))}. Add it to the settings, as in rewards=[{{name: {unused[0]}}}]."
        )
    held_out = [reward.name for reward in config.rewards if not reward.weight]
    trained = [name for name in names if name not in held_out]
    check_rewards(trained, functions, config.strategy.needs_reward_gradient)
    check_rewards(held_out, functions, needs_gradient=False)


def check_rewards(names: Iterable[str], functions: Collection[str] = (), needs_gradient: bool = True) -> None:
    """Raise RewardError for a name that is neither a function nor loadable by reward_core.

    VLM judges are refused where a gradient is needed: their answers have none.

    Args:
        names: names of the rewards.
        functions: names of rewards for which the caller passes a function.
        needs_gradient: whether the rewards must have a gradient.
    """
    for name in names:
        if name in functions or is_import_path(name):
            continue
        known = find_spec(name)
        is_judge = known is not None and known[1].family == JUDGE_FAMILY
        if is_judge and needs_gradient:
            raise RewardError(
                f"Cannot use the reward {name!r}: it is a VLM judge, and its answers have no gradient. "
                "Choose a differentiable scorer, set its weight to 0 to only log it, or set "
                "strategy.name=nft or grpo, which need no gradient."
            )
        if known is not None or os.path.exists(name) or is_repo_id(name):
            continue
        raise RewardError(f"Cannot load the reward {name!r}: {unknown_scorer(name)}")


def is_import_path(name: str) -> bool:
    """Return whether a reward's name has the form "module:function"."""
    return IMPORT_PATH.fullmatch(name) is not None and not os.path.exists(name)


def check_model(name: str) -> None:
    """Raise ModelError if a model is neither a file or folder nor the id of a hub repository."""
    if not os.path.exists(name) and not is_repo_id(name):
        raise ModelError(
            f"Cannot load the model {name!r}: no such folder or file exists, and it is not the id of a hub "
            "repository (OWNER/NAME). Check the path."
        )


def check_out(folder: str | os.PathLike[str]) -> None:
    """Raise ConfigError if the output folder exists as a file."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ConfigError(f"Cannot write to '{os.fspath(folder)}': it is a file. Name a folder with --out.")
