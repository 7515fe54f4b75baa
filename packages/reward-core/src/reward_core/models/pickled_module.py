"""Weights of a module that was pickled as a whole, read without running its code.

``torch.save(model)`` stores a pickle that names the classes and functions of the model. Here every such name
is replaced by an inert class, which keeps the attributes it is given and does nothing else. torch's own
unpickler for ``weights_only=True`` reads the file and calls nothing but these classes and its own functions
that build tensors.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

MAX_MODULES = 10_000  # modules in modules; CLIP ViT-H/14 has about 1,000
MAX_NAMES = 1_000  # classes and functions of a file; CLIP has about 40
# These modules and functions are refused, because no model needs them.
_REFUSED_MODULES = {
    "os",
    "posix",
    "nt",
    "sys",
    "subprocess",
    "commands",
    "shutil",
    "socket",
    "importlib",
    "runpy",
}
_REFUSED_FUNCTIONS = {f"builtins.{name}" for name in ("eval", "exec", "compile", "open", "__import__")}


class Inert:
    """An object of a pickle. It keeps its attributes and has no behavior."""

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def is_pickled_module(path: Path) -> bool:
    """Return whether a torch file names classes or functions, as a pickled module does."""
    try:
        return zipfile.is_zipfile(path) and bool(get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not a file that torch saved; reading it reports why
        return False


def inert_globals(names: Iterable[str]) -> list[Any]:
    """Return inert stand-ins for the classes and functions that a pickle names, for ``safe_globals``.

    Raises:
        ValueError: there are too many, or some that no model needs.
    """
    names = sorted(names)
    if len(names) > MAX_NAMES:
        raise ValueError(
            f"it names {len(names):,} classes and functions, at most {MAX_NAMES:,} are supported"
        )
    if refused := [n for n in names if n in _REFUSED_FUNCTIONS or n.partition(".")[0] in _REFUSED_MODULES]:
        raise ValueError(f"it names {refused[0]!r}, which no model needs. No code was executed")
    return [(type("Inert", (Inert,), {}), name) for name in names]


def read_pickled_module(path: Path) -> dict[str, Tensor]:
    """Return the parameters and persistent buffers of a pickled module by name. No code is executed.

    Raises:
        ValueError: the file names functions that no model needs, or does not contain a module.
        pickle.UnpicklingError: the pickle does more than build objects and tensors.
    """
    with safe_globals(inert_globals(get_unsafe_globals_in_checkpoint(path))):
        module = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    state = dict(_tensors(module))
    if not state:
        raise ValueError("it does not contain a module with weights")
    return state


def _tensors(module: object) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of an inert module and of the modules in it."""
    pending, visited = [("", module)], 0
    while pending:
        prefix, part = pending.pop()
        if not isinstance(part, Inert):
            continue
        visited += 1
        if visited > MAX_MODULES:
            raise ValueError(f"it has more than {MAX_MODULES:,} modules, or a module contains itself")
        skipped = part.__dict__.get("_non_persistent_buffers_set") or ()
        for kind in ("_parameters", "_buffers"):
            for name, tensor in _items(part, kind):
                if isinstance(tensor, Tensor) and not (kind == "_buffers" and name in skipped):
                    yield f"{prefix}{name}", tensor.detach()
        pending += [(f"{prefix}{name}.", child) for name, child in _items(part, "_modules")]


def _items(part: Inert, key: str) -> list[tuple[Any, Any]]:
    content = part.__dict__.get(key)
    return list(content.items()) if isinstance(content, Mapping) else []
