"""The paper's Table 3: 466 prompts, 2,720 images, 6,399 comparisons by people."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from reward_core.errors import InputError
from reward_core.inputs.image_file import ImageSource, image_name
from reward_core.rankings import RankedPrompt, read_rankings

from ..download import RANKINGS, REPO, text_file, unpacked_zip
from .base import Group, Part, SuiteOptions

FOLDER = "test_images"


def build(options: SuiteOptions) -> list[Part]:
    """Table 3; what lacks is fetched."""
    options.data.mkdir(parents=True, exist_ok=True)
    rankings = text_file(RANKINGS, options.data, options.offline)
    ranked = read_rankings(rankings, options.data)[: options.limit]
    folder = _images(options, ranked)
    return [
        Part(
            "table3",
            "Table 3: people's preferences",
            "preference",
            tuple(_group(item, options.data, folder) for item in ranked),
            revision=f"{REPO} (main), rankings sha256 {RANKINGS.sha256[:12]}",
        )
    ]


def _group(item: RankedPrompt, base: Path, folder: Path) -> Group:
    names = tuple(_name(image, base) for image in item.images)
    images = tuple(folder / name for name in names)
    return Group(item.id, item.prompt, images, tuple(map(str, names)), ranks=item.ranks)


def _name(image: ImageSource, base: Path) -> PurePosixPath:
    """Return an image's name relative to the folder of the rankings."""
    path = Path(image_name(image))
    if not path.is_relative_to(base) or ".." in path.relative_to(base).parts:
        raise InputError(f"{RANKINGS.name}: the image {str(path)!r} would lie outside the folder {base}")
    return PurePosixPath(path.relative_to(base).as_posix())


def _images(options: SuiteOptions, ranked: list[RankedPrompt]) -> Path:
    """The folder to which the rankings' names are relative; a single missing image is no missing folder."""
    firsts = [Path(image_name(item.images[0])).relative_to(options.data) for item in ranked[:20]]
    for folder in (options.data, options.data / FOLDER, options.data / FOLDER / FOLDER):
        if any((folder / name).is_file() for name in firsts):
            return folder
    folder = unpacked_zip(
        "test_images.zip", options.data / FOLDER, options.data / "downloads", options.offline
    )
    if not any((folder / name).is_file() for name in firsts):
        raise InputError(f"{folder}: none of the images that the rankings name, such as {firsts[0]}")
    return folder
