"""The end of a run, and its best weights on the way: the folder that others load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.atomic_write import write_text
from ..files.json_file import write_json
from ..models.checkpoint import CONFIG_FILE, WEIGHTS_FILE, read_state_dict, save_folder
from ..models.imagereward.reward_model import RewardModel
from ..runs.training_run import TrainingRun
from ..runs.write_errors import write_errors
from .config import TrainingConfig
from .group_reader import GroupReader, Usable
from .group_rewards import GroupRewards
from .report import CURVES, draw_curves, model_card
from .training_state import TrainingState
from .validation import ValidationResult, validate

if TYPE_CHECKING:
    from accelerate import Accelerator

SKIPPED = "skipped.json"
CARD = "README.md"
PUBLISHED = [CONFIG_FILE, WEIGHTS_FILE, "tokenizer*", "vocab.txt", CARD, CURVES]


@dataclass(frozen=True)
class Outcome:
    """A run after its last step.

    Attributes:
        settings: of the run.
        run: its state and files; the folder holds the best weights.
        rewards: the model as it was trained.
        readers: of the groups of each split.
        splits: the groups of each split, and what was left out of them.
    """

    settings: TrainingConfig
    run: TrainingRun[TrainingState]
    rewards: GroupRewards
    readers: Mapping[str, GroupReader]
    splits: Mapping[str, Usable]


def save_best(model: RewardModel, out: Path, found: ValidationResult | None) -> None:
    """Save a model into the run's folder, calibrated by a validation so that scores are about N(0, 1)."""
    own = model.config
    if found is not None:
        model.config = replace(
            own, reward_mean=found.mean, reward_std=found.std, score_quantiles=found.quantiles
        )
    try:
        with write_errors(out):
            save_folder(model, out)
    finally:
        model.config = own


def finish(outcome: Outcome, seconds: float) -> Path:
    """Evaluate the best weights; write the card, the curves and the list of skipped images; upload.

    Args:
        seconds: that training took.

    Returns:
        The run's folder.
    """
    run, settings, model = outcome.run, outcome.settings, outcome.rewards.model
    out = run.folder
    run.accelerator.wait_for_everyone()
    model.load_state_dict(read_state_dict(out / WEIGHTS_FILE))
    results = _validate_splits(outcome)
    skipped = _skipped(outcome.splits, gathered_unreadable(outcome.readers, run.accelerator))
    if run.accelerator.is_main_process:
        own = model.config
        model.config = type(model).config_beside(out / WEIGHTS_FILE)  # as calibrated
        counts = {
            name: (len(reader.groups), len(reader.images), sum(reader.pairs))
            for name, reader in outcome.readers.items()
        }
        with write_errors(out):
            write_json(out / SKIPPED, skipped)
            draw_curves(run.metrics.read(), out / CURVES)
            card = model_card(model, settings, results, counts, _facts(outcome, skipped, seconds))
            write_text(out / CARD, card)
        model.config = own
    if settings.push_to_hub:
        run.upload(out, settings.push_to_hub, "Upload reward model", PUBLISHED)
    if skipped:
        run.report(f"{len(skipped):,} images could not be read; they are listed in {out / SKIPPED}")
    run.close()
    for reader in outcome.readers.values():
        reader.close()
    return out


def _validate_splits(outcome: Outcome) -> dict[str, ValidationResult]:
    run, average = outcome.run, outcome.settings.average
    results = {
        name: validate(outcome.rewards, outcome.readers[name], run.accelerator, average, 4, f"the {name} set")
        for name in ("validation", "test")
        if name in outcome.readers
    }
    if found := results.get("test"):
        run.log(found.row("test"))
        run.report(f"test: {found.accuracy:.1%} of {found.pairs:,} pairs ordered right")
        if found.not_finite:
            run.warn(found.not_finite_message())
    return results


def _facts(outcome: Outcome, skipped: list[dict[str, str]], seconds: float) -> dict[str, Any]:
    state, accelerator = outcome.run.state, outcome.run.accelerator
    return {
        "best_step": state.best_step,
        "steps": state.step,
        "skipped_pictures": len(skipped),
        "dropped_groups": sum(split.dropped for split in outcome.splits.values())
        + _unusable(outcome.readers, skipped),
        "tied_groups": sum(split.tied for split in outcome.splits.values()),
        "seconds": seconds,
        "ranks": accelerator.num_processes,
        "device": str(accelerator.device.type),
        "precision": accelerator.mixed_precision if accelerator.mixed_precision != "no" else "float32",
        "troubles": state.reported,
    }


def gathered_unreadable(
    readers: Mapping[str, GroupReader], accelerator: Accelerator
) -> dict[str, dict[str, str]]:
    """Return images that turned out unreadable on any rank, by split and name; for all ranks together."""
    from accelerate.utils import gather_object

    own = [(split, *item) for split, reader in readers.items() for item in list(reader.skipped.items())]
    found: dict[str, dict[str, str]] = {}
    for split, image, reason in gather_object(own) if accelerator.num_processes > 1 else own:
        found.setdefault(split, {})[image] = reason
    return found


def _skipped(
    splits: Mapping[str, Usable], unreadable: Mapping[str, Mapping[str, str]]
) -> list[dict[str, str]]:
    """Return the images left out on any rank, by name."""
    found: dict[str, str] = {}
    for split in splits.values():
        found |= split.missing
    for images in unreadable.values():
        found |= images
    return [{"image": image, "reason": reason} for image, reason in sorted(found.items())]


def _unusable(readers: Mapping[str, GroupReader], skipped: list[dict[str, str]]) -> int:
    """Count the groups that images found damaged on the way leave with nothing to compare."""
    bad = {item["image"] for item in skipped}
    if not bad:
        return 0
    return sum(
        len({rank for i, rank in enumerate(group.ranks) if reader.called(number, i) not in bad}) < 2
        for reader in readers.values()
        for number, group in enumerate(reader.groups)
    )
