"""The end of a run, and its best weights on the way: the folder that others load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.atomic_write import write_text
from ..files.json_file import write_json
from ..models.checkpoint import WEIGHTS_FILE, read_state_dict, save_folder
from ..models.load import config_beside
from ..runs.write_errors import write_errors
from .report import CURVES, draw_curves, model_card
from .validation import Judgement, judge

if TYPE_CHECKING:
    from .trainer import Trainer

SKIPPED = "skipped.json"
CARD = "README.md"


def save_best(trainer: Trainer, found: Judgement | None) -> None:
    """Write the model as it is now into the run's folder, calibrated: scores are about N(0, 1)."""
    if not trainer.accelerator.is_main_process:
        return
    model = trainer.model
    own = model.config
    if found is not None:
        model.config = replace(
            own, reward_mean=found.mean, reward_std=found.std, score_quantiles=found.quantiles
        )
    try:
        with write_errors(trainer.out):
            save_folder(model, trainer.out)
    finally:
        model.config = own


def finish(trainer: Trainer, seconds: float) -> Path:
    """Judge the best weights once more and on the test set; write the card, the curves and the list of
    images left out; upload where that is wanted. Returns the run's folder."""
    accelerator, settings, out = trainer.accelerator, trainer.settings, trainer.out
    if "validation" not in trainer.readers:
        trainer.state.best_step = trainer.state.step
        save_best(trainer, None)
    accelerator.wait_for_everyone()
    trainer.model.load_state_dict(read_state_dict(out / WEIGHTS_FILE))
    judgements = {}
    for name in ("validation", "test"):
        if name in trainer.readers:
            judgements[name] = judge(
                trainer.rewards, trainer.readers[name], accelerator, settings.average, 4, f"the {name} set"
            )
    if "test" in judgements:
        found = judgements["test"]
        row = {
            "loss": found.loss,
            "accuracy": found.accuracy,
            "per_prompt_accuracy": found.per_prompt_accuracy,
        }
        trainer._log({f"test/{key}": value for key, value in row.items()})
        trainer.report(f"test: {found.accuracy:.1%} of {found.pairs:,} pairs ordered right")
        if found.not_finite:
            trainer.report(f"warning: {found.not_finite_message()}")
    skipped = gathered_skipped(trainer)
    if accelerator.is_main_process:
        with write_errors(out):
            write_json(out / SKIPPED, skipped)
            draw_curves(trainer.metrics.read(), out / CURVES)
        counts = {
            name: (len(reader.groups), len(reader.images), sum(reader.pairs))
            for name, reader in trainer.readers.items()
        }
        facts = {
            "best_step": trainer.state.best_step,
            "steps": trainer.state.step,
            "skipped_pictures": len(skipped),
            "dropped_groups": sum(split.dropped for split in trainer.splits.values())
            + unusable(trainer, skipped),
            "tied_groups": sum(split.tied for split in trainer.splits.values()),
            "seconds": seconds,
            "ranks": accelerator.num_processes,
            "device": str(accelerator.device.type),
            "precision": accelerator.mixed_precision if accelerator.mixed_precision != "no" else "float32",
            "troubles": trainer.state.told,
        }
        own = trainer.model.config
        trainer.model.config = config_beside(out / WEIGHTS_FILE, type(trainer.model))  # as calibrated
        with write_errors(out):
            write_text(out / CARD, model_card(trainer.model, settings, judgements, counts, facts))
        trainer.model.config = own
        if settings.push_to_hub:
            from huggingface_hub import HfApi

            api = HfApi()
            repo = api.create_repo(settings.push_to_hub, exist_ok=True).repo_id
            patterns = ["config.json", WEIGHTS_FILE, "tokenizer*", "vocab.txt", CARD, CURVES]
            api.upload_folder(repo_id=repo, folder_path=out, allow_patterns=patterns)
    if skipped:
        trainer.report(f"{len(skipped):,} images could not be read; they are listed in {out / SKIPPED}")
    accelerator.wait_for_everyone()
    accelerator.end_training()  # with its process group: left open, a rank may abort (-6) as it exits
    for reader in trainer.readers.values():
        reader.close()
    return out


def gathered_skipped(trainer: Trainer) -> list[dict[str, str]]:
    """Images left out on any rank, by name."""
    found: dict[str, str] = {}
    for split in trainer.splits.values():
        found |= split.missing
    for unreadable in gathered_unreadable(trainer).values():
        found |= unreadable
    return [{"image": image, "reason": reason} for image, reason in sorted(found.items())]


def gathered_unreadable(trainer: Trainer) -> dict[str, dict[str, str]]:
    """Images that turned out unreadable on any rank, by split and name; for all ranks together."""
    from accelerate.utils import gather_object

    own = [(s, *item) for s, reader in trainer.readers.items() for item in list(reader.skipped.items())]
    found: dict[str, dict[str, str]] = {}
    for split, image, reason in gather_object(own) if trainer.accelerator.num_processes > 1 else own:
        found.setdefault(split, {})[image] = reason
    return found


def unusable(trainer: Trainer, skipped: list[dict[str, str]]) -> int:
    """Groups that are left with nothing to compare by images found damaged on the way."""
    bad = {item["image"] for item in skipped}
    if not bad:
        return 0
    return sum(
        len({rank for i, rank in enumerate(group.ranks) if reader.called(number, i) not in bad}) < 2
        for reader in trainer.readers.values()
        for number, group in enumerate(reader.groups)
    )
