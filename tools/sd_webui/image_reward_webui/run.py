"""Scores of one generation, and how infotexts show them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .settings import Settings

KEY = "ImageReward Score"
# Keys that the hosts add after those of scripts. Inserted first, they come earlier in the dictionary, and
# the score stays at the end of the line.
LATER_KEYS = ("Version", "User", "Diffusion in Low Bits")


@dataclass
class ScoredImage:
    image: Any  # the PIL image that the host saves and shows
    score: float


@dataclass
class Run:
    """Scores of one call of process_images, by (batch, index in the batch).

    Attributes:
        settings: the values of the controls.
        images: (batch, index in the batch) -> image with its score.
        notes: lines to show below the gallery.
        failed: whether scoring has failed; no more images are scored then.
    """

    settings: Settings
    images: dict[tuple[int, int], ScoredImage] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: bool = False

    def note(self, text: str) -> None:
        """Add a line to show below the gallery, unless it is there already."""
        if text not in self.notes:
            self.notes.append(text)

    def infotext_value(self, p: Any, index: int, use_main_prompt: bool = False, **_: Any) -> str | None:
        """Return the score of an image for its infotext, or None without a score.

        The host calls this. Intermediate images (before face restoration or the second pass) and grids have
        no score.
        """
        image = None if use_main_prompt else self.images.get((p.iteration, index))
        return None if image is None else f"{image.score:.4f}"

    def show_in_infotexts(self, params: dict[str, Any], more_later_keys: list[str]) -> None:
        """Add the score to the infotexts, after all other keys."""
        for key in (*LATER_KEYS, *more_later_keys):
            params.setdefault(key, None)
        params.pop(KEY, None)
        params[KEY] = self.infotext_value

    @staticmethod
    def hide_from_infotexts(params: dict[str, Any], more_later_keys: list[str]) -> None:
        """Undo ``show_in_infotexts``, so that the host's next run starts clean."""
        params.pop(KEY, None)
        for key in (*LATER_KEYS, *more_later_keys):
            if params.get(key, "") is None:
                del params[key]
