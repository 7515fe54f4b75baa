"""Sorting of images into folders by score, without overwriting files."""

from __future__ import annotations

import filecmp
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError, InputError
from .atomic_write import sync_file, sync_folder

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Placement:
    """An image, its score and its target path."""

    image: Path
    score: float
    target: Path

    @property
    def there(self) -> bool:
        """Whether the image is already at its target."""
        return self.image == self.target


def images_in(folder: Path) -> list[Path]:
    """Return the PNG, JPEG and WebP files in a folder (not its subfolders), by name."""
    files = (file for file in folder.iterdir() if file.suffix.lower() in EXTENSIONS and file.is_file())
    return sorted(file for file in files if not file.name.startswith("."))


def images_to_sort(folder: Path, folders: Sequence[Path], copy: bool) -> list[Path]:
    """Return the images in a folder and those that an earlier run moved.

    With ``copy``, only the images in ``folder`` are returned. Otherwise files in ``folders`` that are copies
    of an image in ``folder`` are left out.
    """
    images = images_in(folder)
    if copy:
        return images
    by_name = {image.name: image for image in images}
    moved = [image for target in folders if target.is_dir() for image in images_in(target)]
    return images + [image for image in moved if not _same(by_name.get(image.name), image)]


def cut_by_top(count: int, tops: Sequence[str]) -> list[int]:
    """Return the number of images for each folder except the last.

    Args:
        count: number of images.
        tops: a number ("20") or a share of all images ("10%", rounded, at least one image) for each of these
            folders.

    Raises:
        InputError: not a number or share, or a value out of range.
    """
    sizes: list[int] = []
    left = count
    for top in tops:
        number = top.removesuffix("%")
        try:
            value = float(number) if top.endswith("%") else int(number)
        except ValueError:
            raise InputError(f"Cannot use --top {top!r}: expected a number (20) or a share (10%).") from None
        if not 0 < value < (100.0001 if top.endswith("%") else math.inf):
            raise InputError(f"Cannot use --top {top}: it is out of range.")
        size = max(1, int(count * value / 100 + 0.5)) if top.endswith("%") else int(value)
        sizes.append(min(size, left))
        left -= sizes[-1]
    return sizes


def plan(
    scores: dict[Path, float],
    folders: Sequence[Path],
    tops: Sequence[str] | None = None,
    thresholds: Sequence[float] | None = None,
) -> list[Placement]:
    """Return a placement for each image, best first; equal scores are ordered by name.

    Args:
        scores: score of each image.
        folders: at least two folders, from best to worst.
        tops: number or share of images for each folder except the last (see `cut_by_top`).
        thresholds: smallest score for each folder except the last, in descending order.

    Raises:
        InputError: the cuts do not match the folders, or a score is not finite.
    """
    cuts = tops if tops is not None else thresholds or []
    if len(folders) < 2 or len(cuts) != len(folders) - 1:
        raise InputError(
            f"Cannot sort into {len(folders)} folders with {len(cuts)} cuts: give at least two folders, and "
            "one cut for each folder except the last."
        )
    if len(set(folders)) != len(folders):
        raise InputError("Cannot sort: the same folder is given twice.")
    for image, score in scores.items():
        if not math.isfinite(score):
            raise InputError(f"Cannot sort {image}: its score is {score}. Score it again before sorting.")
    ranked = sorted(scores, key=lambda image: (-scores[image], image.name, str(image)))
    if tops is not None:
        sizes = cut_by_top(len(ranked), tops)
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        indices = [sum(index >= end for end in ends) for index in range(len(ranked))]
    else:
        limits = list(thresholds or [])
        if not all(math.isfinite(limit) for limit in limits):
            raise InputError(f"Cannot use --threshold {','.join(map(str, cuts))}: expected finite numbers.")
        if limits != sorted(limits, reverse=True):
            raise InputError(f"Cannot use --threshold {','.join(map(str, cuts))}: expected descending order.")
        indices = [sum(scores[image] < limit for limit in limits) for image in ranked]
    return [
        Placement(image, scores[image], folders[index] / image.name) for image, index in zip(ranked, indices)
    ]


def conflicts(placements: Sequence[Placement]) -> list[tuple[Path, str]]:
    """Return images that cannot be placed because their target is taken, with reasons."""
    taken: set[Path] = set()
    result = []
    for p in placements:
        occupied = os.path.lexists(p.target) and not _same(p.image, p.target)
        if not p.there and (p.target in taken or occupied):
            result.append((p.image, f"{p.target} exists already and is not overwritten"))
        taken.add(p.target)
    return result


def carry_out(placement: Placement, copy: bool, folders: Sequence[Path] = ()) -> None:
    """Move or copy an image and its caption (IMAGE.txt) without overwriting files.

    Args:
        placement: the image and its target.
        copy: copy the image instead of moving it. A copy that an earlier run put into another of ``folders``
            is moved from there.
        folders: all folders that images are sorted into.

    Raises:
        ImageError: the target is another file, or the file system refuses.
    """
    source, target = placement.image, placement.target
    if placement.there:
        return
    try:
        if os.path.lexists(target):
            if not _same(source, target):
                raise FileExistsError(str(target))
            if not copy:
                os.unlink(source)  # an earlier run copied it, or was killed while moving it
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if copy:
            candidates = (folder / source.name for folder in folders)
            old = next((file for file in candidates if file != source and _same(source, file)), None)
            _with_caption(old or source, target, stay=old is None)
        else:
            _with_caption(source, target, stay=False)
    except FileExistsError as error:
        raise ImageError(str(source), f"{target} exists already and is not overwritten") from error
    except OSError as error:
        raise ImageError(str(source), f"cannot write {target}: {error.strerror or error}") from error


def _with_caption(source: Path, target: Path, stay: bool) -> None:
    """Move an image, or copy it with ``stay``; its caption goes first."""
    caption, caption_target = source.with_suffix(".txt"), target.with_suffix(".txt")
    if caption.is_file() and not os.path.lexists(caption_target):
        others = any(file.stem == source.stem for file in images_in(source.parent) if file != source)
        (_copy if stay or others else _move)(caption, caption_target)
    (_copy if stay else _move)(source, target)


def _same(one: Path | None, other: Path) -> bool:
    """Return whether both are regular files (not links) with the same content."""
    if one is None or one.is_symlink() or other.is_symlink() or not (one.is_file() and other.is_file()):
        return False
    return filecmp.cmp(one, other, shallow=False)


def _move(source: Path, target: Path) -> None:
    if source.is_symlink():
        destination = os.readlink(source)
        if not os.path.isabs(destination):  # make it relative to the new folder
            old_folder, new_folder = os.path.realpath(source.parent), os.path.realpath(target.parent)
            destination = os.path.relpath(os.path.join(old_folder, destination), new_folder)
        os.symlink(destination, target)
    else:
        try:
            os.link(source, target)  # unlike a rename, it fails if the target exists by now
        except FileExistsError:
            raise
        except OSError:  # no hard links, or another file system
            _copy(source, target)
    os.unlink(source)


def _copy(source: Path, target: Path) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        shutil.copy2(source, temporary)
        sync_file(temporary)
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise
        except OSError:
            if os.path.lexists(target):
                raise FileExistsError(str(target)) from None
            os.rename(temporary, target)
        sync_folder(target.parent)  # the source is removed next
    finally:
        temporary.unlink(missing_ok=True)
