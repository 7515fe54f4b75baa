"""Errors that are raised on purpose; each is also one of Python's own kinds."""

from __future__ import annotations


class ReflError(Exception):
    """Base of all errors raised on purpose by refl."""


class ConfigError(ReflError, ValueError):
    """A field, preset or value that does not exist or does not fit."""


class PromptFileError(ReflError, ValueError):
    """A prompts file that is missing, empty, damaged or of another form."""


class ModelError(ReflError, ValueError):
    """A diffusion model that cannot be loaded, or of a family without an implementation."""


class RewardError(ReflError, ValueError):
    """A reward that cannot be had, or that answers with something other than N numbers."""


class CheckpointError(ReflError, ValueError):
    """A checkpoint that is damaged or belongs to another run."""


class DivergedError(ReflError, ArithmeticError):
    """Too many steps in a row without a finite reward or gradient."""
