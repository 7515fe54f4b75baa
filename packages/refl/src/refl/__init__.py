"""Fine-tunes text-to-image diffusion models against a reward.

import refl

args = refl.parse_args()
trainer = refl.Trainer("CompVis/stable-diffusion-v1-4", "data/refl_data.json", args=args)
trainer.train(args=args)
"""

from .config import TrainConfig
from .config_file import load_config
from .errors import ReflError
from .original_flags import parse_args
from .trainer import Trainer

__version__ = "1.0.0"
__all__ = ["ReflError", "TrainConfig", "Trainer", "load_config", "parse_args"]
