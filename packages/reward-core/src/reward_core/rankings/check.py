"""Find and remove images that cannot be decoded, before training or evaluation."""

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
    """An image that was removed.

    Attributes:
        id, prompt: id and prompt of its group.
        image: name of the image.
        reason: why it cannot be decoded.
    """

    id: str
    prompt: str
    image: str
    reason: str


@dataclass(frozen=True)
class DroppedPrompt:
    """A group that was removed because fewer than two of its images can be decoded."""

    id: str
    prompt: str
    pictures_left: int


@dataclass(frozen=True)
class ImageReport:
    """The result of ``check_images``.

    Attributes:
        pictures: number of images in all groups; an image in several groups counts several times.
        skipped: the removed images, in the order of the data; an image may occur several times.
        dropped: the removed groups.
    """

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
        """Return {"pictures", "skipped": [{"id", "prompt", "image", "reason"}], "dropped": [...]}."""
        return asdict(self)


def check_images(
    data: Sequence[RankedPrompt], *, threads: int | None = None, show_progress: bool = True
) -> tuple[list[RankedPrompt], ImageReport]:
    """Remove images that cannot be decoded; return the remaining data and a report.

    Every image is decoded completely, but only once if it occurs several times. Groups with fewer than two
    images are removed too.

    Args:
        data: the groups.
        threads: number of decoding threads (default: number of CPUs, at most 16).
        show_progress: show a progress bar if stderr is a terminal.
    """
    images = (image for item in data for image in item.images)
    broken = find_broken(images, threads=threads, show_progress=show_progress)
    return drop_broken(data, broken)


def find_broken(
    images: Iterable[ImageSource], *, threads: int | None = None, show_progress: bool = True
) -> dict[str, str]:
    """Return the name and error of each image that cannot be decoded."""
    by_key = in_reading_order({_key(image): image for image in images})
    threads = threads or min(16, usable_cpus())
    broken: dict[str, str] = {}
    with bar(show_progress) as progress, ThreadPoolExecutor(threads) as pool:
        checks = pool.map(_decoding_error, by_key.values())
        try:
            for key, error in zip(
                by_key, progress.track(checks, total=len(by_key), description="checking images")
            ):
                if error is not None:
                    broken[key] = error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return broken


def in_reading_order(images: Mapping[str, ImageSource]) -> dict[str, ImageSource]:
    """Return the images sorted so that images stored in a table follow its order."""

    def location(entry: tuple[str, ImageSource]) -> tuple[str, int]:
        return entry[1].location if isinstance(entry[1], StoredImage) else ("", 0)

    return dict(sorted(images.items(), key=location))


def drop_broken(
    data: Sequence[RankedPrompt], broken: Mapping[str, str]
) -> tuple[list[RankedPrompt], ImageReport]:
    """Remove the images that ``find_broken`` returned; return the remaining data and a report."""
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
    """Return a unique key; PIL images without a file share a name, so their id is added."""
    name = image_name(image)
    return f"{name} {id(image)}" if name.startswith("<") else name


def _decoding_error(image: ImageSource) -> str | None:
    try:
        with decoded_image(image) as decoded, rgb_guard(image_name(image)):
            if decoded.mode != "RGB":
                decoded.convert("RGB")
    except ImageError as error:
        return error.reason
    return None
