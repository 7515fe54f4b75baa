"""Errors of this package; each is also a RewardCoreError and a built-in one."""

from __future__ import annotations

from reward_core.errors import RewardCoreError


class ReflError(RewardCoreError):
    """Base class of this package's errors.

    Training also raises other errors of reward_core.
    """


class ConfigError(ReflError, ValueError):
    """An unknown setting or preset, or an invalid value."""


class PromptFileError(ReflError, ValueError):
    """A prompt file or captioned images that cannot be read."""


class ModelError(ReflError, ValueError):
    """A diffusion model that cannot be loaded or belongs to an unsupported family."""


class RewardError(ReflError, ValueError):
    """A reward that cannot be loaded or does not return N numbers."""


class DivergedError(ReflError, ArithmeticError):
    """Ten training steps in a row without a finite reward or gradient."""
