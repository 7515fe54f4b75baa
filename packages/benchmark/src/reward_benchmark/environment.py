"""The environment of a run: devices, precision and versions."""

from __future__ import annotations

import platform
from importlib.metadata import version

from reward_core.runs.cpus import usable_cpus

from . import __version__


def environment(device: str | None, precision: str) -> dict[str, str]:
    """Return devices, precision and relevant versions as name -> value.

    Args:
        device: comma-separated device names; None: the default device.
        precision: precision of the scorers, such as "exact".
    """
    import numpy
    import PIL
    import torch

    import reward_core

    return {
        "device": _device_names(device),
        "precision": precision,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": str(usable_cpus()),
        "torch": str(torch.__version__),
        "transformers": version("transformers"),  # importing it takes seconds
        "Pillow": PIL.__version__,
        "numpy": numpy.__version__,
        "reward_core": reward_core.__version__,
        "reward_benchmark": __version__,
    }


def _device_names(device: str | None) -> str:
    import torch

    from reward_core.scoring.device import default_device

    names = (device or default_device()).split(",")
    return ", ".join(f"{n} ({torch.cuda.get_device_name(n)})" if n.startswith("cuda") else n for n in names)
