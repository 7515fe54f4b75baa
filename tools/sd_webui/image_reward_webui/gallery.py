"""What the gallery shows: low scores left out, best first, the grid made anew.

Files on the disk are not touched: every image was saved with its score before this runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .run import Run

PER_IMAGE = ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds")


@dataclass
class Shown:
    """An image with what the host put beside it (its mask), in the gallery's order."""

    position: int  # among the generated images
    score: float | None
    infotext: str
    images: list[Any] = field(default_factory=list)


def arrange(processed: Any, run: Run, make_grid: Callable[[list[Any]], Any]) -> None:
    """Filter and sort ``processed`` in place, as the settings say.

    make_grid: PIL images -> their grid, or None where the host shows none for so few.
    """
    settings, first = run.settings, processed.index_of_first_image
    before = _shown(processed, run)
    shown_images = [
        s for s in before if not settings.filter_low or s.score is None or s.score >= settings.limit
    ]
    if settings.sort:
        # Images without a score go last; equal scores stay in order.
        shown_images.sort(key=lambda s: float("inf") if s.score is None else -s.score)
    if [s.position for s in shown_images] == [s.position for s in before]:
        return
    images = [image for s in shown_images for image in s.images]
    infotexts = [s.infotext for s in shown_images for _ in s.images]
    grid = make_grid(images) if first and shown_images else None
    if grid is not None:
        if "parameters" in processed.images[0].info:
            grid.info["parameters"] = processed.images[0].info["parameters"]
        images, infotexts = [grid, *images], [processed.infotexts[0], *infotexts]
    else:
        processed.index_of_first_image = 0
    processed.images[:], processed.infotexts[:] = images, infotexts
    for name in PER_IMAGE:
        values = getattr(processed, name, None)
        if shown_images and isinstance(values, list):
            # The lists are p's own too, so they are replaced, not changed.
            setattr(processed, name, [values[s.position] for s in shown_images if s.position < len(values)])
    if shown_images:
        processed.info = processed.infotexts[0]
        if processed.all_seeds:
            processed.seed, processed.subseed = processed.all_seeds[0], processed.all_subseeds[0]
    else:
        best = max(s.score for s in before)
        processed.info = (
            f"No picture reached the lower score limit {settings.limit:g}: "
            f"{len(before)} filtered out, the best with {best:.4f}. They are saved as usual."
        )


def scores_line(processed: Any, run: Run) -> str:
    """The scores in the gallery's order, for below it."""
    scores = [s.score for s in _shown(processed, run) if s.score is not None]
    return ", ".join(f"{score:.4f}" for score in scores)


def _shown(processed: Any, run: Run) -> list[Shown]:
    """The gallery's images with their scores; what follows an image (masks) belongs to it."""
    first = processed.index_of_first_image
    images, infotexts = processed.images[first:], processed.infotexts[first:]
    scored = [run.images[key] for key in sorted(run.images)]
    by_identity = {id(scored_image.image): scored_image.score for scored_image in scored}
    if len(scored) == len(images):
        scores = [scored_image.score for scored_image in scored]  # whatever other scripts made of them since
    else:
        scores = [by_identity.get(id(image)) for image in images]
    shown: list[Shown] = []
    for image, score in zip(images, scores):
        if score is None and shown:
            shown[-1].images.append(image)
        else:
            shown.append(Shown(len(shown), score, "", [image]))
    for s in shown:
        saved_text = s.images[0].info.get("parameters", "") if hasattr(s.images[0], "info") else ""
        s.infotext = infotexts[s.position] if len(infotexts) == len(shown) else saved_text
    return shown
