"""What a checkpoint of reward training holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import CheckpointError
from ..runs.checkpoint_folder import STATE, CheckpointFolder, damaged, differs
from ..runs.write_errors import write_errors

if TYPE_CHECKING:
    from accelerate import Accelerator

WEIGHTS, OPTIMIZERS = "trained.safetensors", "optimizers.pt"


@dataclasses.dataclass
class RunState:
    """What a run knows of itself between two steps.

    Attributes:
        step: optimizer steps done.
        skipped: steps not taken so far, for want of a finite loss or gradient or of images.
        skipped_in_a_row: of these, the last ones without a finite loss or gradient.
        best: lowest validation loss; its weights are in the run's folder.
        best_step: where that was.
        worse: validations in a row above it.
        stopped: why the run was stopped early; empty: it was not.
        told: troubles that were told already.
        unreadable: by split, images that could not be read so far, with the reason.
        processes: of the run; dropout depends on it.
        fingerprint: of the settings and data that decide the outcome.
        facts: the same in parts, and more of them; see ``decisive_facts``. Empty in older checkpoints.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: float | None = None
    best_step: int = 0
    worse: int = 0
    stopped: str = ""
    told: list[str] = dataclasses.field(default_factory=list)
    unreadable: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    processes: int = 1
    fingerprint: str = ""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


class Checkpoints(CheckpointFolder):
    """What this trainer puts into its checkpoints."""

    def save(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        state: RunState,
    ) -> None:
        """Write a checkpoint, on all ranks together; it appears when it is complete.

        Raises:
            OutputError: it cannot be written; those before it stay.
        """
        from safetensors.torch import save_file

        with write_errors(self.folder), self.writing(accelerator, state.step) as folder:
            torch.save(_random_state(), folder / _random_file(accelerator))
            if accelerator.is_main_process:
                save_file({n: p.detach().cpu().contiguous() for n, p in trained(model)}, folder / WEIGHTS)
                scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
                held = {"optimizers": [optimizer.state_dict() for optimizer in optimizers], "scaler": scaler}
                torch.save(held, folder / OPTIMIZERS)
                text = json.dumps(dataclasses.asdict(state), indent=1)
                (folder / STATE).write_text(text, encoding="utf-8")

    def load(
        self,
        path: Path,
        accelerator: Accelerator,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        own: RunState,
    ) -> RunState:
        """Restore a checkpoint.

        Args:
            own: of this run, of which processes, fingerprint and facts must be the checkpoint's.

        Raises:
            CheckpointError: damaged, or of a run with other settings, data or number of processes.
        """
        from safetensors.torch import load_file

        try:
            state = RunState(**json.loads((path / STATE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(damaged(path, error)) from error
        changed = _changed(state.facts, own.facts)
        wanted = (own.fingerprint, own.processes)
        if difference := differs(path, (state.fingerprint, state.processes), wanted, changed):
            raise CheckpointError(difference)
        try:
            weights = load_file(path / WEIGHTS)
            held = torch.load(path / OPTIMIZERS, map_location="cpu", weights_only=True)
            random = torch.load(path / _random_file(accelerator), map_location="cpu", weights_only=True)
            parameters = dict(trained(model))
            if weights.keys() != parameters.keys():
                raise ValueError("other parameters than this run trains")
            for optimizer, its_state in zip(optimizers, held["optimizers"], strict=True):
                optimizer.load_state_dict(its_state)
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(weights[name])
            if accelerator.scaler is not None and held["scaler"]:
                accelerator.scaler.load_state_dict(held["scaler"])
            _restore_random_state(random)
        except Exception as error:  # truncated files fail in many ways
            raise CheckpointError(damaged(path, error)) from error
        return state


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs of the facts that both know."""
    changed = [name for name in now if name in before and before[name] != now[name]]
    # Of a setting both values say something; a digest says nothing.
    return [f"{n} was {before[n]!r}, now {now[n]!r}" if n.isidentifier() else n for n in changed]


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The trained parameters by name."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _random_file(accelerator: Accelerator) -> str:
    return f"random-{accelerator.process_index}.pt"


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
