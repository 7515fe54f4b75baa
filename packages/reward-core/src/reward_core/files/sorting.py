"""Images into folders by their scores: first a plan, then moves or copies that never overwrite."""

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
    """An image, its score and where it is to go."""

    image: Path
    score: float
    target: Path

    @property
    def there(self) -> bool:
        """Whether it is there already."""
        return self.image == self.target


def images_in(folder: Path) -> list[Path]:
    """PNG, JPEG and WebP files of a folder, not of its subfolders, by name."""
    files = (file for file in folder.iterdir() if file.suffix.lower() in EXTENSIONS and file.is_file())
    return sorted(file for file in files if not file.name.startswith("."))


def images_to_sort(folder: Path, folders: Sequence[Path], copy: bool) -> list[Path]:
    """The images of a folder and those that an earlier run moved out of it into ``folders``.

    A file in ``folders`` that is a copy of one still in ``folder`` does not count again; nor, where images
    are to be copied, does any other.
    """
    images = images_in(folder)
    if copy:
        return images
    here = {image.name: image for image in images}
    moved = [image for into in folders if into.is_dir() for image in images_in(into)]
    return images + [image for image in moved if not _same(here.get(image.name), image)]


def cut_by_top(count: int, tops: Sequence[str]) -> list[int]:
    """Sizes of the folders but the last for ``count`` images.

    Args:
        count: of images.
        tops: for each of these folders a number ("20") or a share of all images ("10%"; rounded, and at
            least one image).

    Raises:
        InputError: neither, or shares of more than 100%.
    """
    sizes: list[int] = []
    left = count
    for top in tops:
        number = top.removesuffix("%")
        try:
            value = float(number) if top.endswith("%") else int(number)
        except ValueError:
            raise InputError(f"--top: a number (20) or a share (10%) was expected, got {top!r}") from None
        if not 0 < value < (100.0001 if top.endswith("%") else math.inf):
            raise InputError(f"--top: {top} is out of range")
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
    """Which image goes into which folder, the best first; equal scores by name.

    Args:
        scores: of all images.
        folders: for the best to the worst, two at least.
        tops: see cut_by_top, one for each folder but the last.
        thresholds: falling, one for each folder but the last: it takes what scores at least so much.

    Raises:
        InputError: cuts that do not fit the folders.
    """
    cuts = tops if tops is not None else thresholds or []
    if len(folders) < 2 or len(cuts) != len(folders) - 1:
        raise InputError(
            f"two folders and more need one cut fewer: got {len(folders)} folders and {len(cuts)} cuts"
        )
    if len(set(folders)) != len(folders):
        raise InputError("the same folder is named twice")
    for image, score in scores.items():
        if not math.isfinite(score):
            raise InputError(f"{image}: its score is {score}; score it again before sorting")
    ranked = sorted(scores, key=lambda image: (-scores[image], image.name, str(image)))
    if tops is not None:
        sizes = cut_by_top(len(ranked), tops)
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        indices = [sum(index >= end for end in ends) for index in range(len(ranked))]
    else:
        limits = list(thresholds or [])
        if not all(math.isfinite(limit) for limit in limits):
            raise InputError(f"--threshold: numbers were expected, got {', '.join(map(str, cuts))}")
        if limits != sorted(limits, reverse=True):
            raise InputError(f"--threshold: the thresholds must fall, got {', '.join(map(str, cuts))}")
        indices = [sum(scores[image] < limit for limit in limits) for image in ranked]
    return [
        Placement(image, scores[image], folders[index] / image.name) for image, index in zip(ranked, indices)
    ]


def conflicts(placements: Sequence[Placement]) -> list[tuple[Path, str]]:
    """Images whose place another file has, or another image wants."""
    taken: set[Path] = set()
    found = []
    for p in placements:
        there = os.path.lexists(p.target) and not _same(p.image, p.target)
        if not p.there and (p.target in taken or there):
            found.append((p.image, f"{p.target} exists already and is not overwritten"))
        taken.add(p.target)
    return found


def carry_out(placement: Placement, copy: bool, folders: Sequence[Path] = ()) -> None:
    """Move or copy one image, and the caption (picture.txt) beside it; nothing is ever overwritten.

    Args:
        placement: of the image.
        copy: leave the image where it is. A copy that an earlier run put into another of ``folders`` is
            moved over from there.
        folders: all that images are sorted into.

    Raises:
        ImageError: another file is in its place, or the file system refuses.
    """
    source, target = placement.image, placement.target
    if placement.there:
        return
    try:
        if os.path.lexists(target):
            if not _same(source, target):
                raise FileExistsError(str(target))
            if not copy:
                os.unlink(source)  # copied by an earlier run, or moved by one that was killed meanwhile
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if copy:
            elsewhere = (folder / source.name for folder in folders)
            old = next((file for file in elsewhere if file != source and _same(source, file)), None)
            _with_caption(old or source, target, stay=old is None)
        else:
            _with_caption(source, target, stay=False)
    except FileExistsError as error:
        raise ImageError(str(source), f"{target} exists already and is not overwritten") from error
    except OSError as error:
        raise ImageError(str(source), f"cannot go to {target}: {error.strerror or error}") from error


def _with_caption(source: Path, target: Path, stay: bool) -> None:
    """Move an image, or copy it if it is to stay; its caption first, so that none is left behind."""
    caption, caption_target = source.with_suffix(".txt"), target.with_suffix(".txt")
    if caption.is_file() and not os.path.lexists(caption_target):
        others = any(file.stem == source.stem for file in images_in(source.parent) if file != source)
        (_copy if stay or others else _move)(caption, caption_target)
    (_copy if stay else _move)(source, target)


def _same(one: Path | None, other: Path) -> bool:
    """Whether both are files of their own (no links) with the same content."""
    if one is None or one.is_symlink() or other.is_symlink() or not (one.is_file() and other.is_file()):
        return False
    return filecmp.cmp(one, other, shallow=False)


def _move(source: Path, target: Path) -> None:
    if source.is_symlink():
        leads = os.readlink(source)
        if not os.path.isabs(leads):  # from its new place to the same file
            here, there = os.path.realpath(source.parent), os.path.realpath(target.parent)
            leads = os.path.relpath(os.path.join(here, leads), there)
        os.symlink(leads, target)
    else:
        try:
            os.link(source, target)  # unlike a rename, it fails where something came in between
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links, or another one
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
