"""Fine-tune text-to-image diffusion models against a reward.

import refl

args = refl.parse_args()
trainer = refl.Trainer("CompVis/stable-diffusion-v1-4", "data/refl_data.json", args=args)
trainer.train(args=args)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import ReflError
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .config import TrainConfig
    from .config.config_file import load_config
    from .config.original_flags import parse_args
    from .trainer import Trainer

__all__ = ["ReflError", "TrainConfig", "Trainer", "load_config", "parse_args"]

# Modules of the names that need torch or diffusers; importing the package alone stays fast.
_MODULES = {
    "TrainConfig": ".config",
    "Trainer": ".trainer",
    "load_config": ".config.config_file",
    "parse_args": ".config.original_flags",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
