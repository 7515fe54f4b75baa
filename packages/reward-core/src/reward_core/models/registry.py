"""Registry of all scorers that can be loaded by name. It loads without torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping

from ..errors import InputError
from .blip.published import BLIP_MODELS
from .clip.published import CLIP_MODELS
from .imagereward.published import CYCLE_MODELS, REWARD_MODELS
from .judges.published import JUDGES, other_judge
from .model_spec import ModelSpec
from .mps.published import MPS_MODELS
from .names import match_name, unknown_name
from .plugins import plugin_names, plugin_spec
from .siglip.published import SIGLIP_MODELS
from .visionreward.published import VISIONREWARD_MODELS
from .vlm.published import VLM_MODELS
from .vqascore.published import VQA_MODELS

# The scorers of this package by name, in the order of listings.
BUILT_IN: dict[str, ModelSpec] = {
    **REWARD_MODELS,
    **{name: (CLIP_MODELS | BLIP_MODELS)[name] for name in ("CLIP", "BLIP", "Aesthetic")},
    **{name: CLIP_MODELS[name] for name in ("PickScore", "HPSv2.1")},
    **MPS_MODELS,
    **CYCLE_MODELS,
    **SIGLIP_MODELS,
    **VLM_MODELS,
    **VQA_MODELS,
    **VISIONREWARD_MODELS,
    **JUDGES,
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
    if (known := match_name(name, BUILT_IN)) is not None:
        return known, BUILT_IN[known]
    if (judge := other_judge(name)) is not None:
        return judge
    known = match_name(name, plugin_names(BUILT_IN))
    spec = None if known is None else plugin_spec(known)
    return None if known is None or spec is None else (known, spec)


def unknown_scorer(name: str) -> InputError:
    """Return the error for a name that is neither registered nor a path nor a hub repository."""
    return unknown_name(name, all_specs())


def published_in(folder: str | os.PathLike[str]) -> tuple[str, str] | None:
    """Return a scorer whose published weights are in a folder, and the name of their file, or None.

    Names that the files of several scorers have, such as "pytorch_model.bin", say nothing.
    """
    weights = [(scorer, spec.parts["weights"]) for scorer, spec in all_specs().items() if spec.parts]
    known = [(scorer, name) for scorer, part in weights for name in part.names if "*" not in name]
    shared = Counter(name for _, name in known)
    for scorer, name in known:
        if shared[name] == 1 and os.path.isfile(os.path.join(folder, name)):
            return scorer, name
    return None


def family_of(model_type: str) -> str | None:
    """Return the family ("module:Object") that loads saved folders with a model_type, or None."""
    specs: Mapping[str, ModelSpec] = BUILT_IN
    for _ in range(2):
        for spec in specs.values():
            if spec.model_type and spec.model_type == model_type:
                return spec.family
        specs = all_specs()
    return None
