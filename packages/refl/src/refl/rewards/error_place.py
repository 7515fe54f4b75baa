"""Where a user's function failed: the file and line of its innermost frame."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path

import reward_core

_OURS = [os.path.dirname(path) for path in (os.path.dirname(__file__), reward_core.__file__)]
_INSTALLED = {"site-packages", "dist-packages"}  # also of the user, and of the system beside an environment
_STANDARD = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]


def described(error: BaseException) -> str:
    """Return the type and message of an error, and where it was raised.

    The place is the innermost frame outside of installed libraries, or else the outermost one in a library
    other than this one. It is left out if there is none, and if the message of a SyntaxError names it.
    """
    text = f"{type(error).__name__}: {str(error).rstrip(' .')}"
    if isinstance(error, SyntaxError):
        return text
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_in(frame, _OURS)]
    installed = [frame for frame in frames if _INSTALLED & set(Path(frame.filename).parts)]
    own = [f for f in frames if f not in installed and not _is_in(f, _STANDARD) and f.filename[:1] != "<"]
    frame = own[-1] if own else installed[0] if installed else None
    return text if frame is None else f"{text} ({frame.filename}, line {frame.lineno})"


def _is_in(frame: traceback.FrameSummary, folders: list[str]) -> bool:
    path = os.path.abspath(frame.filename)
    return any(path.startswith(os.path.join(folder, "")) for folder in folders)
