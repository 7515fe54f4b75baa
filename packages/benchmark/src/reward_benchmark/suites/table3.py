"""Table 3 of the paper: 466 prompts, 2,720 images, 6,399 comparisons by people."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from reward_core.errors import InputError
from reward_core.inputs.image_file import ImageSource, image_name
from reward_core.rankings import RankedPrompt, read_rankings

from ..download import RANKINGS, REPO, text_file, unpacked_zip
from .base import Group, Part, SuiteOptions

FOLDER = "test_images"


def build(options: SuiteOptions) -> list[Part]:
    """Build Table 3; download missing files.

    Raises:
        InputError: invalid rankings, or none of the images exist.
        HubError: a download failed.
    """
    options.data.mkdir(parents=True, exist_ok=True)
    rankings = text_file(RANKINGS, options.data, options.offline)
    ranked = read_rankings(rankings, options.data)[: options.limit]
    names = [tuple(_name(image, options.data) for image in item.images) for item in ranked]
    folder = _image_folder(options, [group[0] for group in names[:20]])
    return [
        Part(
            "table3",
            "Table 3: people's preferences",
            "preference",
            tuple(_group(item, group, folder) for item, group in zip(ranked, names)),
            revision=f"{REPO} (main), rankings sha256 {RANKINGS.sha256[:12]}",
        )
    ]


def _group(item: RankedPrompt, names: tuple[PurePosixPath, ...], folder: Path) -> Group:
    images = tuple(folder / name for name in names)
    return Group(item.id, item.prompt, images, tuple(map(str, names)), ranks=item.ranks)


def _name(image: ImageSource, base: Path) -> PurePosixPath:
    """Return the path of an image relative to the data folder.

    Raises:
        InputError: a URL, or a file outside the data folder.
    """
    name = image_name(image)
    path, base = Path(name).absolute(), base.absolute()
    if "://" in name or not path.is_relative_to(base) or ".." in path.relative_to(base).parts:
        raise InputError(
            f"Cannot use the image {name!r} of {RANKINGS.name}: it is outside the folder {base}. "
            "Name images by their paths in that folder, without '..'."
        )
    return PurePosixPath(path.relative_to(base).as_posix())


def _image_folder(options: SuiteOptions, firsts: list[PurePosixPath]) -> Path:
    """Return the folder that has any of ``firsts``; download it if none does."""
    for folder in (options.data, options.data / FOLDER, options.data / FOLDER / FOLDER):
        if any((folder / name).is_file() for name in firsts):
            return folder
    folder = unpacked_zip(
        "test_images.zip", options.data / FOLDER, options.data / "downloads", options.offline
    )
    if not any((folder / name).is_file() for name in firsts):
        raise InputError(
            f"Cannot find the images of the rankings in '{folder}': none of them exist, such as {firsts[0]}."
        )
    return folder
