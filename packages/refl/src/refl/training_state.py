"""The state of a run between two steps, and the weights of its best validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    """

    diversity: float | None = None


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
