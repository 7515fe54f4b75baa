"""Registry of all scorers that can be loaded by name. It loads without torch."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping

from ..errors import InputError
from .blip.published import BLIP_MODELS
from .clip.published import CLIP_MODELS
from .imagereward.published import CYCLE_MODELS, REWARD_MODELS
from .model_spec import ModelSpec
from .mps.published import MPS_MODELS
from .plugins import plugin_names, plugin_spec
from .siglip.published import SIGLIP_MODELS

# The scorers of this package by name, in the order of listings.
BUILT_IN: dict[str, ModelSpec] = {
    **REWARD_MODELS,
    **{name: (CLIP_MODELS | BLIP_MODELS)[name] for name in ("CLIP", "BLIP", "Aesthetic")},
    **{name: CLIP_MODELS[name] for name in ("PickScore", "HPSv2.1")},
    **MPS_MODELS,
    **CYCLE_MODELS,
    **SIGLIP_MODELS,
}


def all_specs() -> dict[str, ModelSpec]:
    """Return the scorers of this package and of installed plug-ins by name."""
    specs = dict(BUILT_IN)
    for name in plugin_names(BUILT_IN):
        if (spec := plugin_spec(name)) is not None:
            specs[name] = spec
    return specs


def find_spec(name_or_path: str | os.PathLike[str]) -> tuple[str, ModelSpec] | None:
    """Return the registered name and specification of a scorer, or None for a path or hub repository.

    Upper and lower case are the same, except that an existing folder or file comes before a name that is not
    spelled exactly. Plug-ins are only read for a name that is not in this package.
    """
    name = os.fsdecode(name_or_path)
    if name in BUILT_IN:
        return name, BUILT_IN[name]
    if os.path.exists(name):
        return None
    if (known := _match(name, BUILT_IN)) is not None:
        return known, BUILT_IN[known]
    known = _match(name, plugin_names(BUILT_IN))
    spec = None if known is None else plugin_spec(known)
    return None if known is None or spec is None else (known, spec)


def unknown_name(name: str, known: Iterable[str] | None = None) -> InputError:
    """Return the error for a name that is neither registered nor a path nor a hub repository.

    Args:
        name: the name.
        known: registered names (default: all).
    """
    names = list(all_specs() if known is None else known)
    by_lower = {known_name.lower(): known_name for known_name in names}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(by_lower[match]) for match in close)}? " if close else ""
    return InputError(
        f"Cannot find the model {name!r}: it is neither a known name nor a folder or file on this machine, "
        f"nor the id of a hub repository. {hint}Known names: {', '.join(names)}."
    )


def family_of(model_type: str) -> str | None:
    """Return the family ("module:Object") that loads saved folders with a model_type, or None."""
    specs: Mapping[str, ModelSpec] = BUILT_IN
    for _ in range(2):
        for spec in specs.values():
            if spec.model_type and spec.model_type == model_type:
                return spec.family
        specs = all_specs()
    return None


def _match(name: str, known: Iterable[str]) -> str | None:
    names = list(known)
    if name in names:
        return name
    return next((other for other in names if other.lower() == name.lower()), None)
