"""Comparison of a model's faster precisions with its exact rewards, on given images and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..rankings.agreement import Agreement, agreement, check_rewards
from ..scoring.device import Device
from ..scoring.precision import PRECISIONS
from ..scoring.scoring_model import ScoringModel
from .load import load
from .load_options import PathLike

TIMED_SECONDS = 0.5  # the images are scored again until this much time has passed; the best time counts


@dataclass(frozen=True)
class PrecisionResult:
    """A precision's speed and agreement with exact, or the reason why this machine does not support it.

    Attributes:
        images_per_s: images per second, decoding included, each with all prompts.
        agreement: agreement with the exact rewards; None if the precision is not supported.
        reason: why it is not supported.
    """

    images_per_s: float = 0.0
    agreement: Agreement | None = None
    reason: str = ""


@dataclass(frozen=True)
class PrecisionComparison:
    """The results of ``compare_precisions``.

    Attributes:
        images: images that were scored.
        prompts: prompts that every image was scored with.
        reward_std: standard deviation of the exact rewards.
        exact_images_per_s: speed of the exact path.
        results: result of each precision, by name.
        failed: reasons why other images cannot be read, by image.
    """

    images: list[Path]
    prompts: list[str]
    reward_std: float
    exact_images_per_s: float
    results: dict[str, PrecisionResult]
    failed: dict[Path, str]

    def speedup(self, name: str) -> float:
        """Return the speed of a precision divided by that of exact."""
        return self.results[name].images_per_s / self.exact_images_per_s

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as a dict for JSON."""
        precisions: dict[str, dict[str, Any]] = {}
        for name, result in self.results.items():
            if result.agreement is None:
                precisions[name] = {"supported": False, "reason": result.reason}
                continue
            precisions[name] = {
                "supported": True,
                "verdict": result.agreement.verdict,
                "images_per_s": result.images_per_s,
                "speedup": self.speedup(name),
                **asdict(result.agreement),
            }
        return {
            "images": len(self.images),
            "prompts": self.prompts,
            "reward_std": self.reward_std,
            "exact": {"images_per_s": self.exact_images_per_s},
            "precisions": precisions,
            "failed": [{"image": str(image), "error": reason} for image, reason in self.failed.items()],
        }


def faster_precisions() -> list[str]:
    """Return the precisions that can be compared with exact ("auto" is always one of the others)."""
    return [name for name in PRECISIONS if name not in ("exact", "auto")]


def compare_precisions(
    name_or_path: PathLike,
    images: Sequence[Path],
    prompts: Sequence[str],
    precisions: Sequence[str],
    *,
    device: Device = None,
    files: PathLike | None = None,
    batch_size: int | None = None,
) -> PrecisionComparison:
    """Score images in exact and in other precisions; one model is in memory at a time.

    Args:
        name_or_path: as in ``load``.
        images: image files. Those that cannot be read are skipped.
        prompts: prompts; every image is scored with each of them.
        precisions: some of ``faster_precisions()``.
        device: device to compute on.
        files: as in ``load``.
        batch_size: images in a batch.

    Raises:
        InputError: an unknown model or precision, fewer than two readable images, or equal exact rewards.
    """
    for name in precisions:
        if name not in faster_precisions():
            known = ", ".join(map(repr, faster_precisions()))
            raise InputError(f"Cannot compare precision {name!r} with exact: it must be one of {known}.")
    model: ScoringModel | None = load(name_or_path, device=device, files=files)
    assert model is not None
    _, errors = model.encode_readable_images(images, batch_size=batch_size)
    failed = {images[i]: reason for i, reason in errors.items()}
    images = [image for i, image in enumerate(images) if i not in errors]
    if len(images) < 2:
        unreadable = "".join(f" {image}: {reason}." for image, reason in failed.items())
        raise InputError(
            f"Cannot compare precisions: at least 2 readable images are needed, found {len(images)}."
            f"{unreadable} Add PNG, JPEG or WebP images."
        )
    exact, exact_images_per_s = _timed(model, prompts, images, batch_size)
    check_rewards(exact.numpy())
    results = {}
    for name in precisions:
        model = None  # free its memory before the next is loaded
        try:
            model = load(name_or_path, device=device, files=files, precision=name)
        except InputError as error:  # the model and the precision exist, so this machine does not support it
            results[name] = PrecisionResult(reason=str(error))
            continue
        rewards, images_per_s = _timed(model, prompts, images, batch_size)
        results[name] = PrecisionResult(images_per_s, agreement(exact.numpy(), rewards.numpy()))
    std = exact.std(correction=0).item()
    return PrecisionComparison(images, list(prompts), std, exact_images_per_s, results, failed)


def _timed(
    model: ScoringModel, prompts: Sequence[str], images: Sequence[Path], batch_size: int | None
) -> tuple[Tensor, float]:
    """Return the rewards (P, N) and the images per second after a warm-up."""
    rewards = model.score_matrix(prompts, images, batch_size=batch_size)
    best, total = float("inf"), 0.0
    while total < TIMED_SECONDS:
        started = perf_counter()
        model.score_matrix(prompts, images, batch_size=batch_size)
        took = perf_counter() - started
        best, total = min(best, took), total + took
    return rewards, len(images) / best
