"""The prompts that a run trains on and validates with."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from ..config import TrainConfig
from ..errors import ConfigError
from .prompts import read_prompts

logger = logging.getLogger(__name__)


def find_prompts(config: TrainConfig, prompts: str | os.PathLike[str] | Sequence[str] | None) -> list[str]:
    """Return the prompts of a list, of a file, or of the file that the settings name."""
    prompts = prompts if prompts is not None else config.prompts
    if not isinstance(prompts, (str, os.PathLike)):
        return list(prompts)
    if not os.fspath(prompts):
        raise ConfigError("Cannot train: no prompts are given. Set prompts to a file or pass a list.")
    return read_prompts(prompts)


def find_validation_prompts(
    config: TrainConfig, prompts: str | os.PathLike[str] | Sequence[str] | None
) -> list[str] | None:
    """Return the validation prompts of a list or file, or None if neither is given."""
    prompts = prompts if prompts is not None else config.validation.prompts_file
    if not isinstance(prompts, (str, os.PathLike)):
        return list(prompts)
    return read_prompts(prompts) if os.fspath(prompts) else None


def split_prompts(
    prompts: list[str], validation: list[str] | None, count: int
) -> tuple[list[str], list[str]]:
    """Return (training prompts, validation prompts).

    Without given validation prompts the last ``count`` prompts are used. They are left out of training if
    there are at least four times as many prompts; otherwise the overlap is reported.
    """
    if validation is not None:
        return prompts, validation
    if not count:
        return prompts, []
    if len(prompts) >= 4 * count:
        return prompts[:-count], prompts[-count:]
    logger.warning(
        "validating on %d prompts that are trained on too: there are only %d. Set validation.prompts_file, "
        "or validation.prompts=%d",
        min(count, len(prompts)),
        len(prompts),
        len(prompts) // 4,
    )
    return prompts, prompts[-count:]
