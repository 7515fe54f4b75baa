"""One generation: which image got which score, and how infotexts show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .settings import Settings

KEY = "ImageReward Score"
# Keys that the hosts write after those of scripts. Named first, they keep the earlier place in the
# dictionary, and the score stays last in the line.
LATER_KEYS = ("Version", "User", "Diffusion in Low Bits")


@dataclass
class ScoredImage:
    image: Any  # the PIL image that the host saves and shows
    score: float


@dataclass
class Run:
    """Scores of one call of process_images, by (batch, place in the batch)."""

    settings: Settings
    images: dict[tuple[int, int], ScoredImage] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: bool = False

    def note(self, text: str) -> None:
        """A line for below the gallery, once."""
        if text not in self.notes:
            self.notes.append(text)

    def infotext_value(self, p: Any, index: int, use_main_prompt: bool = False, **_: Any) -> str | None:
        """What the host asks for when it writes an image's infotext: its score, if it has one yet.

        Images saved halfway (before face restoration, before the second pass) and grids have none.
        """
        image = None if use_main_prompt else self.images.get((p.iteration, index))
        return None if image is None else f"{image.score:.4f}"

    def show_in_infotexts(self, params: dict[str, Any], more_later_keys: list[str]) -> None:
        for key in (*LATER_KEYS, *more_later_keys):
            params.setdefault(key, None)
        params.pop(KEY, None)
        params[KEY] = self.infotext_value

    @staticmethod
    def hide_from_infotexts(params: dict[str, Any], more_later_keys: list[str]) -> None:
        """Undo it: the host's next run of the same settings starts clean."""
        params.pop(KEY, None)
        for key in (*LATER_KEYS, *more_later_keys):
            if params.get(key, "") is None:
                del params[key]
