"""A check of a run without the weights of its model: settings, plan and memory."""

from __future__ import annotations

import logging
import os

from reward_core.models.registry import find_spec

from .accelerator import make_accelerator
from .checks.hub_checks import missing_files
from .checks.input_checks import is_import_path
from .config import TrainConfig
from .config.checks import check_config
from .data.run_prompts import find_prompts, find_validation_prompts, split_prompts
from .families import Family, family_of
from .families.skeleton import load_skeleton
from .optimizer import make_optimizer
from .rewards import Rewards
from .setup import (
    check_schedules,
    frozen_dtype,
    make_batches,
    make_family,
    make_no_grad_copy,
    make_objective,
    make_rewards,
    open_captions,
    prepare_denoiser,
)
from .trainable import Trainable

logger = logging.getLogger(__name__)


class DryRun:
    """The parts of a run, checked, with a model that has shapes and no weights.

    Rewards whose files are on this machine are loaded and tried on two images. Others are not downloaded,
    and the memory that they need is not part of the estimate. The weights of the model are loaded only if
    it is a single file, or of a family without ``condition_shapes``.

    Args:
        config: settings of the run.

    Attributes:
        missing_rewards: names of the rewards that were not loaded, with the size of their download.

    Raises:
        ReflError: as ``Trainer`` raises.
    """

    def __init__(self, config: TrainConfig):
        self.config = check_config(config)
        given = find_prompts(config, None), find_validation_prompts(config, None)
        self.prompts, self.validation_prompts = split_prompts(*given, config.validation.prompts)
        captioned = open_captions(config)
        self.accelerator = make_accelerator(config)
        make_batches(config, self.accelerator, self.prompts)
        self.family = self._family()
        self.missing_rewards: list[str] = []
        rewards = self._rewards()
        no_grad_copy = make_no_grad_copy(config, self.family, self.family.device)
        self.trainable = Trainable(
            self.family,
            config.model,
            config.optimizer.ema_decay,
            keep_reference=config.loss.distance_weight > 0,
            keep_old=config.strategy.keeps_old_weights,
        )
        prepare_denoiser(config, self.family)
        self.objective = make_objective(
            config, self.family, rewards, self.trainable, self.accelerator, captioned, no_grad_copy
        )
        make_optimizer(config, self.trainable.parameters)

    def _family(self) -> Family:
        config = self.config
        if os.path.isfile(config.model.id):  # its configuration is in its weights
            return make_family(config, self.accelerator)
        logger.info("reading the configuration of %s", config.model.id)
        dtype = frozen_dtype(config, self.accelerator.device)
        family = family_of(load_skeleton(config.model.id, config.model.revision, dtype))
        if type(family).condition_shapes is Family.condition_shapes:
            return make_family(config, self.accelerator)
        check_schedules(config, family)
        return family

    def _rewards(self) -> Rewards:
        local: list[str] = []
        for name in (reward.name for reward in self.config.rewards):
            if is_import_path(name) or missing_files(name) is None:
                local.append(name)
            else:
                known = find_spec(name)
                size = "" if known is None else f" ({known[1].facts.gigabytes:g} GB to download)"
                self.missing_rewards.append(f"{name}{size}")
        return make_rewards(self.config, self.family, self.accelerator, None, self.prompts, local)
