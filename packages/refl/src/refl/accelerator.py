"""The accelerator of a run: device, precision, processes and trackers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .config import TrainConfig
from .errors import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Return the accelerator of the settings; environment variables do not change its accumulation.

    Raises:
        ConfigError: the launcher shards the model, or a tracker is not installed.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedType, GradientAccumulationPlugin, ProjectConfiguration

    _check_trackers(config.run.trackers)
    out = Path(config.run.out)
    accelerator = Accelerator(
        mixed_precision=config.run.mixed_precision,
        # The training loop accumulates gradients. Without this plugin, accelerate would divide them again
        # by ACCELERATE_GRADIENT_ACCUMULATION_STEPS.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=list(config.run.trackers) or None,
        project_config=ProjectConfiguration(str(out), str(out / "logs")),
        cpu=config.run.cpu,
    )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ConfigError(
            f"Cannot train with {accelerator.distributed_type.value}: a model sharded over processes is not "
            "supported. Start processes with a whole model each (torchrun, or accelerate's multi-GPU)."
        )
    return accelerator


def _check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for unknown trackers and those not installed, which accelerate would ignore."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known, available = [
        [str(kind) for kind in kinds] for kinds in (LOGGER_TYPE_TO_CLASS, get_available_trackers())
    ]
    for name in names:
        if name not in known and name != "all":
            raise ConfigError(
                f"Cannot use run.trackers={name!r}: unknown. Use any of {', '.join(known)}, all, or "
                "[] for none."
            )
        if name in known and name not in available:
            raise ConfigError(
                f"Cannot use run.trackers={name!r}: it is not installed. Install it, or set run.trackers=[]."
            )
