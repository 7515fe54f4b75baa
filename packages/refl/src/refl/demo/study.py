"""Comparison of base, control and fine-tuned model on the same unseen prompts."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reward_core.runs.cpus import usable_cpus

from ..compare import ImageSettings, compare_rewards, generate_images, score_images
from ..config import RewardConfig, TrainConfig
from ..families import load_family
from ..rewards import load_rewards
from .recipe import DENOISING_STEPS, GUIDANCE, HELD_OUT_REWARD, REWARD, TRUTH
from .truth import interval, read_truths

SETTINGS = ImageSettings(steps=DENOISING_STEPS, guidance_scale=GUIDANCE, seeds=1, batch_size=32)


@dataclass
class ScoredImages:
    """Images and scores of one model, one image for each of P prompts.

    Attributes:
        images: (P, 3, 64, 64) uint8.
        scores: name -> (P, 1): the rewards, "truth" (the oracle's utility) and "alignment".
    """

    images: Tensor
    scores: dict[str, np.ndarray]


def score_model(
    model: Path, prompts: Sequence[str], advance: Callable[[int], None] = lambda count: None
) -> ScoredImages:
    """Generate one image per prompt and score it. Every model gets the same noise.

    Args:
        model: pipeline folder.
        prompts: P prompts.
        advance: called with the number of images after each batch.
    """
    family = load_family(model)
    device = torch.device("cpu")
    batches = []
    for batch in generate_images(family, [(prompt, index) for index, prompt in enumerate(prompts)], SETTINGS):
        batches.append(batch)
        advance(len(batch))
    images = torch.cat(batches)
    rewards = load_rewards([RewardConfig(REWARD), RewardConfig(HELD_OUT_REWARD)], device)
    scores = score_images(images, prompts, rewards, SETTINGS, device)
    truths = read_truths(images, prompts)
    scores |= {TRUTH: truths.utility[:, None], "alignment": truths.alignment[:, None]}
    return ScoredImages(images, scores)


def validation_curve(rows: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Return step, rewards, truth and diversity of each validation."""
    return [
        {"step": row["step"]} | {k.split("/", 1)[1]: v for k, v in row.items() if k.startswith("validation/")}
        for row in rows
        if f"validation/{TRUTH}" in row
    ]


def report(
    base: ScoredImages,
    control: ScoredImages,
    tuned: ScoredImages,
    curves: dict[str, list[dict[str, float]]],
    saved_step: int,
    stopped: str,
) -> dict[str, Any]:
    """Return the results of the demo as the contents of report.json.

    Every mean has its 95% interval over prompts under ``intervals``. ``best_truth`` is the highest truth of
    a validation of the fine-tuning run; ``stopped_truth`` is that of the saved weights, which the held-out
    reward and the diversity selected.

    Args:
        base: images of the base model.
        control: images of the control model.
        tuned: images of the fine-tuned model.
        curves: run name -> validations (see ``validation_curve``).
        saved_step: step of the fine-tuned model's saved weights.
        stopped: reason of an early stop; empty without one.
    """
    tuned_curve = {point["step"]: point for point in curves["refl"]}
    comparisons = {
        "": compare_rewards(TRUTH, base.scores[TRUTH], tuned.scores[TRUTH]),
        "_control": compare_rewards(TRUTH, control.scores[TRUTH], tuned.scores[TRUTH]),
    }
    sides = {"before": base, "control": control, "after": tuned}
    means = {
        f"{name}_{side}": interval(scored.scores[key])
        for name, key in (
            ("reward", REWARD),
            ("judge", HELD_OUT_REWARD),
            ("oracle", TRUTH),
            ("alignment", "alignment"),
        )
        for side, scored in sides.items()
    }
    document: dict[str, Any] = {name: mean for name, (mean, _, _) in means.items()}
    document["control_after"] = document["oracle_control"]
    for suffix, comparison in comparisons.items():
        document |= {
            f"win_rate{suffix}": comparison.win_rate,
            f"win_low{suffix}": comparison.win_rate_low,
            f"win_high{suffix}": comparison.win_rate_high,
        }
    document |= {
        "best_truth": max(point[TRUTH] for point in curves["refl"]),
        "stopped_truth": tuned_curve[saved_step][TRUTH],
        "stopped_step": saved_step,
        "stopped": stopped,
        "prompts": len(base.images),
        "intervals": {name: [low, high] for name, (_, low, high) in means.items()},
        "curves": curves,
    }
    return document


def run_environment(started: float, config: TrainConfig) -> dict[str, Any]:
    """Return settings (paths without folders), versions, machine and time."""
    settings = config.to_dict()
    for part, key in (("model", "id"), ("run", "out"), ("loss", "pretraining_data")):
        settings[part][key] = Path(settings[part][key]).name
    packages = ("torch", "diffusers", "transformers", "accelerate", "numpy", "pillow")
    return {
        "seconds": time.perf_counter() - started,
        "settings": settings,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "machine": {"cpu": processor(), "cores": usable_cpus(), "threads": torch.get_num_threads()},
    }


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
