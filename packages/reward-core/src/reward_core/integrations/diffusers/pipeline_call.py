"""Select the texts and embeddings of a pipeline's arguments for the rows of a batch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError

# prompt_embeds, negative_prompt_embeds_2, pooled_prompt_embeds, prompt_attention_mask, ...
_EMBEDDINGS = re.compile(r"(negative_)?(pooled_)?prompt_\w*(embeds|mask)\w*")


def replaces_prompt(call: Mapping[str, Any]) -> bool:
    """Return whether a call has embeddings that replace the prompt."""
    return any(name.startswith("prompt_embeds") and value is not None for name, value in call.items())


def check_call(call: Mapping[str, Any], prompts: int) -> None:
    """Raise InputError if texts or embeddings do not match the number of prompts."""
    for name, value in call.items():
        value_for_rows(name, value, [0], prompts)


def value_for_rows(name: str, value: Any, rows: Sequence[int], prompts: int) -> Any:
    """Return the value of an argument for the rows of a batch.

    Args:
        name: name of the argument.
        value: for texts, a string for all prompts or a list of P strings. For embeddings, a tensor (P, ...)
            or a list of P tensors; negative embeddings may have a single row for all prompts. Other values
            are the same for all rows.
        rows: index of the prompt of each row.
        prompts: P, the number of prompts.

    Raises:
        InputError: texts or embeddings do not match the number of prompts.
    """
    if value is None:
        return None
    if _EMBEDDINGS.fullmatch(name):
        return _embeddings_for_rows(name, value, rows, prompts)
    if not name.rstrip("_23").endswith("prompt"):
        return value
    texts = [value] * prompts if isinstance(value, str) else list(value)
    if len(texts) != prompts:
        raise InputError(
            f"Cannot use {name}: expected one text or {prompts} texts, one per prompt, got {len(texts)}."
        )
    return [texts[row] for row in rows]


def _embeddings_for_rows(name: str, value: Any, rows: Sequence[int], prompts: int) -> Any:
    if not isinstance(value, (Tensor, list, tuple)):
        raise InputError(f"Cannot use {name}: expected a tensor, got {type(value).__name__}.")
    count = 0 if isinstance(value, Tensor) and value.ndim < 2 else len(value)
    if count == 1 and name.startswith("negative_"):
        rows = [0] * len(rows)
    elif count != prompts:
        shape = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"of length {len(value)}"
        raise InputError(
            f"Cannot use {name} {shape}: expected one row for each of {prompts} prompts, ({prompts}, ...). "
            "best_of repeats it for the candidates itself."
        )
    if isinstance(value, Tensor):
        return value[torch.tensor(rows, device=value.device)]
    return [value[row] for row in rows]
