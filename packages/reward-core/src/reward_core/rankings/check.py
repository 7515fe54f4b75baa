"""Images that cannot be decoded, found before any work is done with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ImageError
from ..inputs.image_file import ImageSource, StoredImage, decoded_image, image_name, rgb_guard
from ..runs.cpus import usable_cpus
from ..runs.progress import bar
from .ranked_prompt import RankedPrompt


@dataclass(frozen=True)
class SkippedImage:
    """An image that was left out, and why. id, prompt: of the group that it was in."""

    id: str
    prompt: str
    image: str
    reason: str


@dataclass(frozen=True)
class DroppedPrompt:
    """A group of which fewer than two images were left."""

    id: str
    prompt: str
    pictures_left: int


@dataclass(frozen=True)
class ImageReport:
    """images: how many places in groups were looked at. skipped: in the data's order, each place once."""

    pictures: int
    skipped: tuple[SkippedImage, ...]
    dropped: tuple[DroppedPrompt, ...]

    def __str__(self) -> str:
        if not self.skipped and not self.dropped:
            return f"all {self.pictures:,} images can be read"
        text = f"{len(self.skipped):,} of {self.pictures:,} images cannot be read and are skipped"
        if self.dropped:
            text += f"; {len(self.dropped):,} prompts with fewer than two images are dropped"
        return text

    def to_dict(self) -> dict[str, Any]:
        """For JSON: {"pictures", "skipped": [{"id", "prompt", "image", "reason"}], "dropped": [...]}."""
        return asdict(self)


def check_images(
    data: Sequence[RankedPrompt], *, threads: int | None = None, show_progress: bool = True
) -> tuple[list[RankedPrompt], ImageReport]:
    """The data without images that cannot be decoded, and a report of what was left out.

    Every image is decoded completely, one that occurs several times once. A group with fewer than two
    images (also one that came so) is dropped.

    Args:
        threads: how many images are decoded at once; by default as many as there are CPUs, at most 16.
        show_progress: a bar on stderr, while that is a terminal.
    """
    images = (image for item in data for image in item.images)
    broken = find_broken(images, threads=threads, show_progress=show_progress)
    return drop_broken(data, broken)


def find_broken(
    images: Iterable[ImageSource], *, threads: int | None = None, show_progress: bool = True
) -> dict[str, str]:
    """Name -> reason, of the images that cannot be decoded."""
    named = in_reading_order({_key(image): image for image in images})
    threads = threads or min(16, usable_cpus())
    broken: dict[str, str] = {}
    with bar(show_progress) as shown, ThreadPoolExecutor(threads) as pool:
        checks = pool.map(_fault, named.values())
        try:
            for key, fault in zip(
                named, shown.track(checks, total=len(named), description="checking images")
            ):
                if fault is not None:
                    broken[key] = fault
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return broken


def in_reading_order(named: Mapping[str, ImageSource]) -> dict[str, ImageSource]:
    """The same images; those inside one table follow each other as they lie in it."""

    def location(entry: tuple[str, ImageSource]) -> tuple[str, int]:
        return entry[1].location if isinstance(entry[1], StoredImage) else ("", 0)

    return dict(sorted(named.items(), key=location))


def drop_broken(
    data: Sequence[RankedPrompt], broken: Mapping[str, str]
) -> tuple[list[RankedPrompt], ImageReport]:
    """The data without the images that ``find_broken`` named."""
    remaining: list[RankedPrompt] = []
    skipped: list[SkippedImage] = []
    dropped: list[DroppedPrompt] = []
    for item in data:
        reasons = [broken.get(_key(image)) for image in item.images]
        for image, reason in zip(item.images, reasons):
            if reason is not None:
                skipped.append(SkippedImage(item.id, item.prompt, image_name(image), reason))
        good = [i for i, reason in enumerate(reasons) if reason is None]
        if len(good) < 2:
            dropped.append(DroppedPrompt(item.id, item.prompt, len(good)))
        else:
            remaining.append(item if len(good) == len(item.images) else item.only(good))
    report = ImageReport(sum(len(item.images) for item in data), tuple(skipped), tuple(dropped))
    return remaining, report


def _key(image: ImageSource) -> str:
    """Images of PIL without a file have no name of their own."""
    name = image_name(image)
    return f"{name} {id(image)}" if name.startswith("<") else name


def _fault(image: ImageSource) -> str | None:
    try:
        with decoded_image(image) as decoded, rgb_guard(image_name(image)):
            if decoded.mode != "RGB":
                decoded.convert("RGB")
    except ImageError as error:
        return error.reason
    return None
