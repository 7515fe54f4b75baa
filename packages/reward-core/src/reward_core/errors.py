"""Every error and warning of this package that a caller may want to tell apart.

Each error is also one of Python's own (ValueError, FileNotFoundError, ...), so callers who do not
know this module can still catch it by kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class RewardCoreError(Exception):
    """Base of all errors raised on purpose by reward_core."""

    def __reduce__(self) -> tuple:  # for another process
        # Python would call the class with the message, which is not what each of them is made of.
        return _remade, (type(self), self.args, self.__dict__)


def _remade(kind: type[RewardCoreError], args: tuple, attributes: dict) -> RewardCoreError:
    builtin: Any = kind
    while builtin.__module__ != "builtins":
        builtin = builtin.__base__
    error = builtin.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error


class InputError(RewardCoreError, ValueError):
    """An argument cannot be used as given: no images, lengths that differ, an unknown option."""


class PromptTypeError(RewardCoreError, TypeError):
    """A prompt that is not a string."""


class ImageError(RewardCoreError, ValueError):
    """An image that cannot be read. ``image`` names it, ``reason`` says why."""

    def __init__(self, image: str, reason: str):
        super().__init__(f"{image}: {reason}")
        self.image = image
        self.reason = reason


class ImageNotFoundError(ImageError, FileNotFoundError):
    """A path at which there is no file."""

    # OSError would otherwise print its (empty) errno fields.
    __str__ = Exception.__str__


class MissingExtraError(RewardCoreError, ImportError):
    """A library of an extra cannot be imported. ``extra`` is the name of the extra.

    Args:
        extra: of reward-core, such as "train".
        needs: the library as people call it, and what it is for: "PyYAML", "timm (to build a ViT)".
    """

    def __init__(self, extra: str, needs: str):
        library = needs.split(" ", 1)[0].lower()
        super().__init__(f"Cannot import {needs}: it is not installed. Run `pip install {library}`.")
        self.extra = extra


class TrainingError(RewardCoreError, ArithmeticError):
    """A training run that came to nothing: steps in a row without a finite loss or gradient."""


class CheckpointError(RewardCoreError, ValueError):
    """A checkpoint file or folder that is damaged, incomplete or of another kind."""


class KeyMismatchError(CheckpointError):
    """Weights whose names or shapes are not the model's.

    Attributes:
        missing: keys of the model that the checkpoint lacks.
        unexpected: keys of the checkpoint that the model lacks.
        mismatched: (key, shape in the checkpoint, shape in the model).
        lines: of the message.
    """

    SHOWN = 12

    def __init__(
        self,
        source: str,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        mismatched: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]] = (),
        hint: str = "",
    ):
        self.missing, self.unexpected, self.mismatched = list(missing), list(unexpected), list(mismatched)
        shapes = [f"{key} {list(found)} instead of {list(wanted)}" for key, found, wanted in mismatched]
        parts = [f"{source} does not fit the model."]
        for title, keys in (("missing", missing), ("unexpected", unexpected), ("wrong shape", shapes)):
            if keys:
                more = f", ... ({len(keys) - self.SHOWN} more)" if len(keys) > self.SHOWN else ""
                parts.append(f"  {title} ({len(keys)}): " + ", ".join(keys[: self.SHOWN]) + more)
        if hint:
            parts.append(f"  {hint}")
        self.lines = parts
        super().__init__("\n".join(parts))


class HubError(RewardCoreError, OSError):
    """A file could not be fetched: no network, no such repository, no permission."""

    __str__ = Exception.__str__


class DiskFullError(RewardCoreError, OSError):
    """No space is left, or there is too little for what is to come."""


class OutputError(RewardCoreError, OSError):
    """A result that could not be written: no room, no permission, another run using it."""

    __str__ = Exception.__str__


class RunInterrupted(KeyboardInterrupt):
    """A bulk run was interrupted after it saved what it had scored.

    Attributes:
        saved: how many rows a run of the same command finds scored.
        rows: how many the input has.
    """

    def __init__(self, saved: int, rows: int):
        super().__init__(f"interrupted; {saved:,} of {rows:,} rows are kept")
        self.saved, self.rows = saved, rows


class WorkerError(RewardCoreError, RuntimeError):
    """A process that scores for another one ended before its work did."""

    @property
    def lines(self) -> list[str]:
        """The lines of the message: a process that failed sends its traceback."""
        return str(self).split("\n")


class NonFiniteRewardError(RewardCoreError, ArithmeticError):
    """A reward came out NaN or infinite; such an image has no place in a ranking."""


class PromptTruncatedWarning(UserWarning):
    """A prompt longer than the model reads; its last words had no part in the score."""


class EmptyPromptWarning(UserWarning):
    """An empty prompt: the score then says how the image is liked without any request."""


class PromptWithoutImageWarning(UserWarning):
    """A prompts file names prompts for which the folder holds no image."""


class DataWarning(UserWarning):
    """Something that the data could hold is not there, or had to be left out."""


class StaleScoresWarning(UserWarning):
    """Scores of an earlier run that cannot be kept: their file or their images were changed since."""


class ClippedLevelsWarning(UserWarning):
    """A 16-bit, 32-bit or float grayscale image that is scored black or white, as 8 bits show it."""


class CompilationWarning(UserWarning):
    """The compiled path cannot be had here; scores are the same, but take longer."""


class RoundedWeightsWarning(UserWarning):
    """Weights are saved that were rounded to 16 bits when they were loaded."""
