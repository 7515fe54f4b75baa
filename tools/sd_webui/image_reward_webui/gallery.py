"""Filter and sort the gallery, and rebuild its grid.

Files on disk do not change: every image was saved with its score before this runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .run import Run

PER_IMAGE = ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds")


@dataclass
class GalleryItem:
    """A generated image and the images that follow it in the gallery (its masks)."""

    index: int  # among the generated images
    score: float | None
    infotext: str
    images: list[Any] = field(default_factory=list)


def arrange(processed: Any, run: Run, make_grid: Callable[[list[Any]], Any]) -> None:
    """Filter and sort ``processed`` in place, following the settings of the run.

    Args:
        processed: the host's result, with images and infotexts.
        run: scores and settings.
        make_grid: PIL images -> grid image; None if the host shows no grid for so few images.
    """
    settings, first = run.settings, processed.index_of_first_image
    items = _gallery_items(processed, run)
    kept = [
        item
        for item in items
        if not settings.filter_low or item.score is None or item.score >= settings.limit
    ]
    if settings.sort:
        # Images without a score go last; equal scores keep their order.
        kept.sort(key=lambda item: float("inf") if item.score is None else -item.score)
    if [item.index for item in kept] == [item.index for item in items]:
        return
    images = [image for item in kept for image in item.images]
    infotexts = [item.infotext for item in kept for _ in item.images]
    grid = make_grid(images) if first and kept else None
    if grid is not None:
        if "parameters" in processed.images[0].info:
            grid.info["parameters"] = processed.images[0].info["parameters"]
        images, infotexts = [grid, *images], [processed.infotexts[0], *infotexts]
    else:
        processed.index_of_first_image = 0
    processed.images[:], processed.infotexts[:] = images, infotexts
    for name in PER_IMAGE:
        values = getattr(processed, name, None)
        if kept and isinstance(values, list):
            # p shares these lists, so they are replaced and not modified.
            setattr(processed, name, [values[item.index] for item in kept if item.index < len(values)])
    if kept:
        processed.info = processed.infotexts[0]
        if processed.all_seeds:
            processed.seed, processed.subseed = processed.all_seeds[0], processed.all_subseeds[0]
    else:
        best = max(item.score for item in items)
        processed.info = (
            f"All {len(items)} pictures were filtered out: none reached the lower score limit "
            f"{settings.limit:g}, the best score was {best:.4f}. They are saved as usual."
        )


def scores_line(processed: Any, run: Run) -> str:
    """Return the scores in the gallery's order, as text to show below it."""
    scores = [item.score for item in _gallery_items(processed, run) if item.score is not None]
    return ", ".join(f"{score:.4f}" for score in scores)


def _gallery_items(processed: Any, run: Run) -> list[GalleryItem]:
    """Return the gallery's images with scores; masks belong to their images."""
    first = processed.index_of_first_image
    images, infotexts = processed.images[first:], processed.infotexts[first:]
    scored = [run.images[key] for key in sorted(run.images)]
    by_identity = {id(scored_image.image): scored_image.score for scored_image in scored}
    if len(scored) == len(images):
        scores = [scored_image.score for scored_image in scored]  # other scripts may have replaced the images
    else:
        scores = [by_identity.get(id(image)) for image in images]
    items: list[GalleryItem] = []
    for image, score in zip(images, scores):
        if score is None and items:
            items[-1].images.append(image)
        else:
            items.append(GalleryItem(len(items), score, "", [image]))
    for item in items:
        saved_text = item.images[0].info.get("parameters", "") if hasattr(item.images[0], "info") else ""
        item.infotext = infotexts[item.index] if len(infotexts) == len(items) else saved_text
    return items
