"""Whether weights are those of before, and whether two models have the same."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor


def weights_state(parameters: Iterable[Tensor]) -> tuple[tuple[int, int], ...]:
    """Where each parameter lies and how often it was changed in place: another state, maybe other weights.

    Changes through ``.data`` are not counted by torch; neither are any under ``torch.inference_mode``.
    """
    return tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in parameters)


def weights_mark(parameters: Iterable[Tensor]) -> str:
    """Eight letters that tell weights apart, the same on every device and in bfloat16 as in float32.

    Of each parameter the first 1024 values count, which training, a merged adapter or another seed change.
    """
    parts = [parameter.detach().flatten()[:1024].to(torch.bfloat16) for parameter in parameters]
    return f"{zlib.crc32(torch.cat(parts).cpu().view(torch.int16).numpy().tobytes()):08x}"
