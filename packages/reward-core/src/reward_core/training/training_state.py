"""The state of a training run between two steps, and the trained weights of its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..runs.run_state import RunState


@dataclass
class TrainingState(RunState):
    """The state of a reward model's training.

    Attributes:
        reported: kinds of problem reported so far.
        unreadable: by split, the reason for each image that could not be read so far.
        facts: settings and hashes that affect the weights; see ``decisive_facts``.
    """

    reported: list[str] = field(default_factory=list)
    unreadable: dict[str, dict[str, str]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def differences(self, other: RunState) -> list[str]:
        """Return the names of settings and data that differ from another run's."""
        assert isinstance(other, TrainingState)
        before, now = self.facts, other.facts
        changed = [name for name in now if name in before and before[name] != now[name]]
        # Show both values of a setting, but no hashes.
        return [f"{n} was {before[n]!r}, now {now[n]!r}" if n.isidentifier() else n for n in changed]


class TrainedWeights:
    """The trained parameters of a module, as a checkpoint saves and restores them."""

    def __init__(self, module: nn.Module):
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of the parameters by name."""
        return {name: p.detach().cpu().contiguous() for name, p in self.parameters.items()}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Copy tensors into the parameters; raise ValueError if their names differ."""
        if tensors.keys() != self.parameters.keys():
            raise ValueError("its parameters are not the ones that this run trains")
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])
