"""Errors and warnings of reward_core.

Each error also derives from one of Python's own (ValueError, FileNotFoundError, ...), so callers can catch
it without importing this module.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any


class RewardCoreError(Exception):
    """Base class of all errors that reward_core raises on purpose."""

    def __reduce__(self) -> tuple:  # worker processes pickle their errors
        # By default unpickling calls the class with the message, but some classes take other arguments.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[RewardCoreError], args: tuple, attributes: dict) -> RewardCoreError:
    builtin: Any = kind
    while builtin.__module__ != "builtins":
        builtin = builtin.__base__
    error = builtin.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error


class InputError(RewardCoreError, ValueError):
    """An invalid argument: no images, unequal lengths, an unknown option."""


class PromptTypeError(RewardCoreError, TypeError):
    """A prompt that is not a string."""


class ImageError(RewardCoreError, ValueError):
    """An image that cannot be read.

    Attributes:
        image: name of the image.
        reason: why it cannot be read.
    """

    def __init__(self, image: str, reason: str):
        super().__init__(f"Cannot use {image}: {reason.rstrip('.')}.")
        self.image = image
        self.reason = reason


class ImageNotFoundError(ImageError, FileNotFoundError):
    """An image file that does not exist."""

    # OSError would otherwise print its empty errno fields.
    __str__ = Exception.__str__


class MissingExtraError(RewardCoreError, ImportError):
    """A library of an extra cannot be imported. ``extra`` is the name of the extra.

    Args:
        extra: of reward-core, such as "train".
        needs: the library as people call it, and what it is for: "PyYAML", "timm (to build a ViT)".
    """

    def __init__(self, extra: str, needs: str):
        super().__init__(f"Cannot import {needs}: {not_installed(extra, needs.split(' ', 1)[0])}")
        self.extra = extra


def not_installed(extra: str, library: str) -> str:
    """Return which libraries of an extra are not installed, and how to install the extra, in two sentences.

    Args:
        extra: of reward-core, such as "train".
        library: the library that cannot be imported.
    """
    names = [library, *(name for name in _missing_of(extra) if name.lower() != library.lower())]
    listed = f"{', '.join(names[:-1])} and {names[-1]} are" if names[1:] else f"{library} is"
    command = f'pip install "./packages/reward-core[{extra}]"'
    return f"{listed} not installed. Run `{command}` in the folder of reward-core's repository."


def _missing_of(extra: str) -> list[str]:
    """Return the libraries of an extra that are not installed, by reward-core's own metadata."""
    from importlib.metadata import PackageNotFoundError, requires, version

    try:
        required = requires("reward-core") or []
    except PackageNotFoundError:  # reward-core is only on the path
        return []
    missing = []
    for requirement in required:
        wanted, _, marker = requirement.partition(";")
        if marker.replace("'", '"').strip() != f'extra == "{extra}"':
            continue
        name = re.match(r"[\w.-]+", wanted)
        try:
            version(name[0] if name else wanted)
        except PackageNotFoundError:
            missing.append(name[0] if name else wanted)
    return missing


class TrainingError(RewardCoreError, ArithmeticError):
    """A training run failed: too many steps without a finite loss or gradient."""


class CheckpointError(RewardCoreError, ValueError):
    """A checkpoint file or folder that is damaged, incomplete or of the wrong kind."""


class KeyMismatchError(CheckpointError):
    """Weights whose names or shapes do not match the model.

    Attributes:
        missing: keys of the model that are not in the checkpoint.
        unexpected: keys of the checkpoint that are not in the model.
        mismatched: (key, shape in the checkpoint, shape in the model).
        lines: lines of the message.
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
        shapes = [f"{key} {list(actual)} instead of {list(expected)}" for key, actual, expected in mismatched]
        parts = [f"Cannot load '{source}': its weights do not match the model."]
        for title, keys in (("missing", missing), ("unexpected", unexpected), ("wrong shape", shapes)):
            if keys:
                more = f", ... ({len(keys) - self.SHOWN} more)" if len(keys) > self.SHOWN else ""
                parts.append(f"  {title} ({len(keys)}): " + ", ".join(keys[: self.SHOWN]) + more)
        if hint:
            parts.append(f"  {hint}")
        self.lines = parts
        super().__init__("\n".join(parts))


class HubError(RewardCoreError, OSError):
    """A failed download or upload: no network, no such repository, no permission."""

    __str__ = Exception.__str__


class ServerError(RewardCoreError, OSError):
    """A server of a vision-language model that cannot be used: unreachable, no such model, no permission.

    Attributes:
        status: HTTP status of the answer, if there was one.
    """

    __str__ = Exception.__str__

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class RequestError(ServerError):
    """One request that a server refused or failed at; other requests may succeed."""


class AnswerError(RewardCoreError, ValueError):
    """An answer of a vision-language model that has no clear score.

    Attributes:
        answer: text of the answer, at most `SHOWN` characters.
        reason: why it cannot be read.
    """

    SHOWN = 300

    def __init__(self, answer: str, reason: str):
        half = self.SHOWN // 2
        self.answer = answer if len(answer) <= self.SHOWN else f"{answer[:half]} ... {answer[-half:]}"
        self.reason = reason
        super().__init__(f"Cannot read the answer of the judge: {reason}. It answered {self.answer!r}.")


class DiskFullError(RewardCoreError, OSError):
    """No space left on the disk, or too little for the next file."""


class OutputError(RewardCoreError, OSError):
    """A result that cannot be written: no space, no permission, another run uses it."""

    __str__ = Exception.__str__


class RunInterrupted(KeyboardInterrupt):
    """A bulk run was interrupted and saved its scores.

    Attributes:
        saved: number of rows whose scores are saved; the same command resumes after them.
        rows: number of rows in the input.
    """

    def __init__(self, saved: int, rows: int):
        super().__init__(f"interrupted; {saved:,} of {rows:,} rows are kept")
        self.saved, self.rows = saved, rows


class WorkerError(RewardCoreError, RuntimeError):
    """A worker process ended before its work was done."""

    @property
    def lines(self) -> list[str]:
        """Lines of the message, with the traceback of the worker if it sent one."""
        return str(self).split("\n")


class NonFiniteRewardError(RewardCoreError, ArithmeticError):
    """A reward that is NaN or infinite; such an image cannot be ranked."""


class PromptTruncatedWarning(UserWarning):
    """A prompt is longer than the model reads; its last words do not affect the score."""


class EmptyPromptWarning(UserWarning):
    """A prompt is empty; the score then depends only on the image."""


class PromptWithoutImageWarning(UserWarning):
    """A prompts file has prompts for images that are not in the folder."""


class DataWarning(UserWarning):
    """Some data is missing or was skipped."""


class StaleScoresWarning(UserWarning):
    """Scores of an earlier run are discarded: their file or their images have changed."""


class ClippedLevelsWarning(UserWarning):
    """A grayscale image of more than 8 bits is scored as black or white."""


class CompilationWarning(UserWarning):
    """Compiling failed; the scores are the same but take longer."""


class RoundedWeightsWarning(UserWarning):
    """The saved weights were rounded to 16 bits when they were loaded."""
