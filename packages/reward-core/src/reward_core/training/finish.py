"""Save the best weights of a run; at its end evaluate them and write card, curves and skipped images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.atomic_write import write_text
from ..files.json_file import write_json
from ..models.checkpoint import read_state_dict, save_folder
from ..models.imagereward.reward_model import RewardModel
from ..models.model_spec import CONFIG_FILE, WEIGHTS_FILE
from ..runs.training_run import TrainingRun
from ..runs.write_errors import write_errors
from .config import TrainingConfig
from .group_reader import GroupReader, Usable
from .group_rewards import GroupRewards
from .report import CURVES, draw_curves, model_card
from .training_state import TrainingState
from .validation import ValidationResult, validate
from .verdict import no_improvement

if TYPE_CHECKING:
    from accelerate import Accelerator

SKIPPED = "skipped.json"
CARD = "README.md"
PUBLISHED = [CONFIG_FILE, WEIGHTS_FILE, "tokenizer*", "vocab.txt", CARD, CURVES]


@dataclass(frozen=True)
class Outcome:
    """A run after its last step.

    Attributes:
        settings: settings of the run.
        run: state and files of the run; its folder has the best weights.
        rewards: the trained module.
        readers: reader of each split's groups.
        splits: the groups of each split, and what was left out of them.
    """

    settings: TrainingConfig
    run: TrainingRun[TrainingState]
    rewards: GroupRewards
    readers: Mapping[str, GroupReader]
    splits: Mapping[str, Usable]


def save_best(model: RewardModel, out: Path, result: ValidationResult | None) -> None:
    """Save a model to the run's folder.

    Args:
        model: the model.
        out: the run's folder.
        result: validation whose mean and standard deviation standardize the saved model's scores.
    """
    config = model.config
    if result is not None:
        model.config = replace(
            config, reward_mean=result.mean, reward_std=result.std, score_quantiles=result.quantiles
        )
    try:
        with write_errors(out):
            save_folder(model, out)
    finally:
        model.config = config


def finish(outcome: Outcome, seconds: float) -> Path:
    """Evaluate the best weights; write the card, the curves and the list of skipped images; upload.

    Args:
        outcome: the run.
        seconds: duration of the training.

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
        config = model.config
        model.config = type(model).config_beside(out / WEIGHTS_FILE)  # has mean and std of the validation
        counts = {
            name: (len(reader.groups), len(reader.images), sum(reader.pairs))
            for name, reader in outcome.readers.items()
        }
        rows = run.metrics.read()
        facts = _facts(outcome, skipped, seconds) | {"verdict": no_improvement(rows, run.state.best_step)}
        if facts["verdict"]:
            run.warn(facts["verdict"])
        with write_errors(out):
            write_json(out / SKIPPED, skipped)
            draw_curves(rows, out / CURVES)
            card = model_card(model, settings, results, counts, facts)
            write_text(out / CARD, card)
        model.config = config
    if settings.push_to_hub:
        run.upload(out, settings.push_to_hub, "Upload reward model", PUBLISHED)
    if skipped:
        run.report(f"{len(skipped):,} images could not be read; see {out / SKIPPED}")
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
    if test := results.get("test"):
        run.log(test.row("test"))
        run.report(f"test: {test.accuracy:.1%} of {test.pairs:,} pairs ordered correctly")
        if test.not_finite:
            run.warn(test.not_finite_message())
    return results


def _facts(outcome: Outcome, skipped: list[dict[str, str]], seconds: float) -> dict[str, Any]:
    state, accelerator = outcome.run.state, outcome.run.accelerator
    return {
        "best_step": state.best_step,
        "steps": state.step,
        "skipped_images": len(skipped),
        "dropped_groups": sum(split.dropped for split in outcome.splits.values())
        + _count_unusable(outcome.readers, skipped),
        "tied_groups": sum(split.tied for split in outcome.splits.values()),
        "seconds": seconds,
        "ranks": accelerator.num_processes,
        "device": str(accelerator.device.type),
        "precision": accelerator.mixed_precision if accelerator.mixed_precision != "no" else "float32",
        "warnings": state.reported,
    }


def gathered_unreadable(
    readers: Mapping[str, GroupReader], accelerator: Accelerator
) -> dict[str, dict[str, str]]:
    """Return the images that any rank could not read, with reasons, by split and name.

    All ranks must call it together.
    """
    from accelerate.utils import gather_object

    local = [(split, *item) for split, reader in readers.items() for item in list(reader.skipped.items())]
    unreadable: dict[str, dict[str, str]] = {}
    for split, image, reason in gather_object(local) if accelerator.num_processes > 1 else local:
        unreadable.setdefault(split, {})[image] = reason
    return unreadable


def _skipped(
    splits: Mapping[str, Usable], unreadable: Mapping[str, Mapping[str, str]]
) -> list[dict[str, str]]:
    """Return the images that any rank left out, sorted by name."""
    reasons: dict[str, str] = {}
    for split in splits.values():
        reasons |= split.missing
    for images in unreadable.values():
        reasons |= images
    return [{"image": image, "reason": reason} for image, reason in sorted(reasons.items())]


def _count_unusable(readers: Mapping[str, GroupReader], skipped: list[dict[str, str]]) -> int:
    """Count the groups that have no untied pair left because images turned out to be damaged."""
    bad = {item["image"] for item in skipped}
    if not bad:
        return 0
    return sum(
        len({rank for i, rank in enumerate(group.ranks) if reader.image_name(number, i) not in bad}) < 2
        for reader in readers.values()
        for number, group in enumerate(reader.groups)
    )
