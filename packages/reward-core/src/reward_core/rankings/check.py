"""Pictures that cannot be decoded, found before any work is done with them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ImageError
from ..image_file import ImageSource, StoredImage, image_name, open_image
from ..progress import bar
from .ranked_prompt import RankedPrompt


@dataclass(frozen=True)
class SkippedPicture:
    """A picture that was left out, and why. id, prompt: of the group that it was in."""

    id: str
    prompt: str
    image: str
    reason: str


@dataclass(frozen=True)
class DroppedPrompt:
    """A group of which fewer than two pictures were left."""

    id: str
    prompt: str
    pictures_left: int


@dataclass(frozen=True)
class PictureReport:
    """pictures: how many places in groups were looked at. skipped: in the data's order, each place once."""

    pictures: int
    skipped: tuple[SkippedPicture, ...]
    dropped: tuple[DroppedPrompt, ...]

    def __str__(self) -> str:
        if not self.skipped and not self.dropped:
            return f"all {self.pictures:,} pictures can be read"
        text = f"{len(self.skipped):,} of {self.pictures:,} pictures cannot be read and are skipped"
        if self.dropped:
            text += f"; {len(self.dropped):,} prompts with fewer than two pictures are dropped"
        return text

    def to_dict(self) -> dict[str, Any]:
        """For JSON: {"pictures", "skipped": [{"id", "prompt", "image", "reason"}], "dropped": [...]}."""
        return asdict(self)


def check_pictures(
    data: Sequence[RankedPrompt], *, threads: int | None = None, show_progress: bool = True
) -> tuple[list[RankedPrompt], PictureReport]:
    """The data without pictures that cannot be decoded, and a report of what was left out.

    Every picture is decoded completely, one that occurs several times once. A group with fewer than two
    pictures (also one that came so) is dropped.

    Args:
        threads: how many pictures are decoded at once; by default as many as there are CPUs, at most 16.
        show_progress: a bar on stderr, while that is a terminal.
    """
    images = (image for item in data for image in item.images)
    broken = find_broken(images, threads=threads, show_progress=show_progress)
    return leave_out(data, broken)


def find_broken(
    images: Iterable[ImageSource], *, threads: int | None = None, show_progress: bool = True
) -> dict[str, str]:
    """Name -> reason, of the pictures that cannot be decoded."""
    named = in_reading_order({_key(image): image for image in images})
    threads = threads or min(16, os.cpu_count() or 1)
    broken: dict[str, str] = {}
    with bar(show_progress) as shown, ThreadPoolExecutor(threads) as pool:
        checks = pool.map(_fault, named.values())
        try:
            for key, fault in zip(
                named, shown.track(checks, total=len(named), description="checking pictures")
            ):
                if fault is not None:
                    broken[key] = fault
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return broken


def in_reading_order(named: Mapping[str, ImageSource]) -> dict[str, ImageSource]:
    """The same pictures; those inside one table follow each other as they lie in it."""

    def place(entry: tuple[str, ImageSource]) -> tuple[str, int]:
        return entry[1].place if isinstance(entry[1], StoredImage) else ("", 0)

    return dict(sorted(named.items(), key=place))


def leave_out(
    data: Sequence[RankedPrompt], broken: Mapping[str, str]
) -> tuple[list[RankedPrompt], PictureReport]:
    """The data without the pictures that ``find_broken`` named."""
    kept: list[RankedPrompt] = []
    skipped: list[SkippedPicture] = []
    dropped: list[DroppedPrompt] = []
    for item in data:
        reasons = [broken.get(_key(image)) for image in item.images]
        for image, reason in zip(item.images, reasons):
            if reason is not None:
                skipped.append(SkippedPicture(item.id, item.prompt, image_name(image), reason))
        good = [i for i, reason in enumerate(reasons) if reason is None]
        if len(good) < 2:
            dropped.append(DroppedPrompt(item.id, item.prompt, len(good)))
        else:
            kept.append(item if len(good) == len(item.images) else item.only(good))
    report = PictureReport(sum(len(item.images) for item in data), tuple(skipped), tuple(dropped))
    return kept, report


def _key(image: ImageSource) -> str:
    """Pictures of PIL without a file have no name of their own."""
    name = image_name(image)
    return f"{name} {id(image)}" if name.startswith("<") else name


def _fault(image: ImageSource) -> str | None:
    try:
        picture = open_image(image)
        if picture.mode != "RGB":
            picture.convert("RGB")
    except ImageError as error:
        return error.reason
    except ValueError as error:
        return f"cannot be turned into RGB: {error}"
    return None
