"""Whether kernels written in Triton can be used."""

from __future__ import annotations

import importlib.util
import logging
from functools import cache

import torch

from ..errors import CompilationWarning
from .caller_warning import warn_caller

logger = logging.getLogger(__name__)


def triton_runs_on(device: torch.device) -> bool:
    """Return whether kernels written in Triton run on a device: a CUDA GPU on which a small one works.

    Triton comes with torch for CUDA, but needs a C compiler, which small container images lack. One
    CompilationWarning then gives the reason.
    """
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return _works(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _works(index: int) -> bool:
    device = torch.device("cuda", index)
    try:
        from .triton_trial_kernel import store_one

        with torch.cuda.device(device), torch.inference_mode(False):
            target = torch.zeros(1, dtype=torch.int32, device=device)
            store_one[(1,)](target)
            return target.item() == 1
    except Exception as error:  # of the C compiler, Triton or the driver: all differ
        logger.info("a Triton kernel failed", exc_info=error)
        reason = (str(error).strip().splitlines() or [""])[0]
        warn_caller(
            f"Cannot run kernels of Triton: {type(error).__name__}: {reason}. torch's and Pillow's "
            "slower ones are used. Install a C compiler, such as gcc.",
            CompilationWarning,
        )
        return False
