"""The end of a run, and its best weights on the way: the folder that others load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.atomic_write import write_text
from ..files.json_file import write_json
from ..hub.uploads import upload_folder
from ..models.checkpoint import CONFIG_FILE, WEIGHTS_FILE, read_state_dict, save_folder
from ..models.imagereward.reward_model import RewardModel
from ..runs.metrics_file import MetricsFile
from ..runs.write_errors import write_errors
from .config import TrainingConfig
from .group_reader import GroupReader, Usable
from .group_rewards import GroupRewards
from .report import CURVES, draw_curves, model_card
from .validation import ValidationResult, validate

if TYPE_CHECKING:
    from accelerate import Accelerator

SKIPPED = "skipped.json"
CARD = "README.md"
PUBLISHED = [CONFIG_FILE, WEIGHTS_FILE, "tokenizer*", "vocab.txt", CARD, CURVES]


@dataclass(frozen=True)
class TrainedRun:
    """What the end of a run needs to know of it.

    Attributes:
        settings: of the run; ``out`` is its folder, which holds the best weights.
        rewards: the model as it was trained.
        readers: of the groups of each split.
        splits: the groups of each split, and what was left out of them.
        steps: how many there were; best_step: after which one the best weights were saved.
        troubles: warnings of the run.
        metrics: its metrics, step by step.
        report: prints a line, once however many ranks there are.
        log: adds a row to the metrics.
    """

    settings: TrainingConfig
    accelerator: Accelerator
    rewards: GroupRewards
    readers: Mapping[str, GroupReader]
    splits: Mapping[str, Usable]
    steps: int
    best_step: int
    troubles: list[str]
    metrics: MetricsFile
    report: Callable[[str], None]
    log: Callable[[dict[str, float]], None]

    @property
    def out(self) -> Path:
        return Path(self.settings.out)


def save_best(model: RewardModel, out: Path, found: ValidationResult | None) -> None:
    """Write a model into the run's folder; calibrated, so that scores are about N(0, 1), if it was judged."""
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


def finish(run: TrainedRun, seconds: float) -> Path:
    """Judge the best weights, write the card, the curves and the list of skipped images, and publish.

    Returns:
        The run's folder.
    """
    accelerator, out, model = run.accelerator, run.out, run.rewards.model
    accelerator.wait_for_everyone()
    model.load_state_dict(read_state_dict(out / WEIGHTS_FILE))
    results = _validate_splits(run)
    unreadable = gathered_unreadable(run.readers, accelerator)
    skipped = _skipped(run.splits, unreadable)
    if accelerator.is_main_process:
        with write_errors(out):
            write_json(out / SKIPPED, skipped)
            draw_curves(run.metrics.read(), out / CURVES)
        own = model.config
        model.config = type(model).config_beside(out / WEIGHTS_FILE)  # as calibrated
        counts = {
            name: (len(reader.groups), len(reader.images), sum(reader.pairs))
            for name, reader in run.readers.items()
        }
        with write_errors(out):
            card = model_card(model, run.settings, results, counts, _facts(run, skipped, seconds))
            write_text(out / CARD, card)
        model.config = own
        if run.settings.push_to_hub:
            upload_folder(out, run.settings.push_to_hub, patterns=PUBLISHED)
    if skipped:
        run.report(f"{len(skipped):,} images could not be read; they are listed in {out / SKIPPED}")
    accelerator.wait_for_everyone()
    accelerator.end_training()  # with its process group: left open, a rank may abort (-6) as it exits
    for reader in run.readers.values():
        reader.close()
    return out


def _validate_splits(run: TrainedRun) -> dict[str, ValidationResult]:
    results = {
        name: validate(
            run.rewards, run.readers[name], run.accelerator, run.settings.average, 4, f"the {name} set"
        )
        for name in ("validation", "test")
        if name in run.readers
    }
    if "test" in results:
        found = results["test"]
        run.log(
            {
                "test/loss": found.loss,
                "test/accuracy": found.accuracy,
                "test/per_prompt_accuracy": found.per_prompt_accuracy,
            }
        )
        run.report(f"test: {found.accuracy:.1%} of {found.pairs:,} pairs ordered right")
        if found.not_finite:
            run.report(f"warning: {found.not_finite_message()}")
    return results


def _facts(run: TrainedRun, skipped: list[dict[str, str]], seconds: float) -> dict[str, Any]:
    accelerator = run.accelerator
    return {
        "best_step": run.best_step,
        "steps": run.steps,
        "skipped_pictures": len(skipped),
        "dropped_groups": sum(split.dropped for split in run.splits.values())
        + _unusable(run.readers, skipped),
        "tied_groups": sum(split.tied for split in run.splits.values()),
        "seconds": seconds,
        "ranks": accelerator.num_processes,
        "device": str(accelerator.device.type),
        "precision": accelerator.mixed_precision if accelerator.mixed_precision != "no" else "float32",
        "troubles": run.troubles,
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
