"""The state of a run between two steps, and the weights of its best validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reward_core.errors import CheckpointError
from reward_core.files.atomic_write import atomic_write
from reward_core.runs.run_state import RunState
from reward_core.runs.write_errors import write_errors

from .trainable import Trainable


@dataclass
class ReflState(RunState):
    """The state of a fine-tuning run.

    Attributes:
        diversity: diversity of the first validation, before training; None until then.
        settings: the settings that affect the result, by section; empty in checkpoints of older versions.
    """

    diversity: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def differences(self, other: RunState) -> list[str]:
        """Return descriptions of settings that differ from another run's."""
        assert isinstance(other, ReflState)
        before, now = _flat(self.settings), _flat(other.settings)
        changed = [name for name in now if name in before and before[name] != now[name]]
        return [f"{name} was {before[name]!r}, now {now[name]!r}" for name in changed]


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by dotted names."""
    flat: dict[str, Any] = {}
    for section, value in settings.items():
        named = (
            {f"{section}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {section: value}
        )
        flat |= named
    return flat


class BestWeights:
    """Files with the weights of the best validation of each checkpoint.

    Args:
        folder: the checkpoint folder.
        trainable: the trained parameters.
    """

    def __init__(self, folder: Path, trainable: Trainable):
        self.folder, self.trainable = folder, trainable

    def save(self, step: int) -> None:
        """Save the current weights under the number of a step."""
        from safetensors.torch import save_file

        with write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._path(step)) as temporary:
                save_file(self.trainable.tensors(), temporary)

    def load(self, step: int) -> None:
        """Load the weights saved at a step.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        from safetensors.torch import load_file

        path = self._path(step)
        try:
            self.trainable.load_tensors(load_file(path))
        except Exception as error:  # truncated files fail in many ways
            raise CheckpointError(
                f"Cannot read the best validation's weights from '{path}': {error}. Set "
                "validation.keep_best=false to keep the last ones."
            ) from error

    def remove_before(self, step: int) -> None:
        """Remove the weights of steps before ``step``."""
        for path in self.folder.glob("best-*.safetensors"):
            if path.name < self._path(step).name:
                path.unlink(missing_ok=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"best-{step:06d}.safetensors"
