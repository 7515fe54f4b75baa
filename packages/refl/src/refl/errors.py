"""Errors of this package. Each is one of reward_core's, and one of Python's own kinds."""

from __future__ import annotations

from reward_core.errors import RewardCoreError


class ReflError(RewardCoreError):
    """Base of the errors that only this package raises; its runs also raise reward_core's own."""


class ConfigError(ReflError, ValueError):
    """A field, preset or value that does not exist or does not fit."""


class PromptFileError(ReflError, ValueError):
    """A prompts file that is missing, empty, damaged or of another form."""


class ModelError(ReflError, ValueError):
    """A diffusion model that cannot be loaded, or of a family without an implementation."""


class RewardError(ReflError, ValueError):
    """A reward that cannot be loaded, or that answers with something other than N numbers."""


class DivergedError(ReflError, ArithmeticError):
    """Too many steps in a row without a finite reward or gradient."""
