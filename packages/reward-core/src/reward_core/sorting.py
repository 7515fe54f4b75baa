"""Pictures into folders by their scores: first a plan, then moves or copies that never overwrite."""

from __future__ import annotations

import csv
import filecmp
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .config import read_json
from .errors import CheckpointError, ImageError, InputError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Placement:
    """A picture, its score and where it is to go."""

    image: Path
    score: float
    target: Path

    @property
    def there(self) -> bool:
        """Whether it is there already."""
        return self.image == self.target


def pictures_in(folder: Path) -> list[Path]:
    """PNG, JPEG and WebP files of a folder, not of its subfolders, by name."""
    files = (file for file in folder.iterdir() if file.suffix.lower() in EXTENSIONS and file.is_file())
    return sorted(file for file in files if not file.name.startswith("."))


def cut_by_top(count: int, tops: Sequence[str]) -> list[int]:
    """Sizes of the folders but the last for ``count`` pictures.

    Args:
        count: of pictures.
        tops: for each of these folders a number ("20") or a share of all pictures ("10%"; rounded, and at
            least one picture).

    Raises:
        InputError: neither, or shares of more than 100%.
    """
    sizes, left = [], count
    for top in tops:
        number = top.removesuffix("%")
        try:
            value = float(number) if top.endswith("%") else int(number)
        except ValueError:
            raise InputError(f"--top: a number (20) or a share (10%) was expected, got {top!r}") from None
        if value <= 0 or (top.endswith("%") and value > 100):
            raise InputError(f"--top: {top} is out of range")
        size = max(1, int(count * value / 100 + 0.5)) if top.endswith("%") else value
        sizes.append(min(size, left))
        left -= sizes[-1]
    return sizes


def plan(
    scores: dict[Path, float],
    folders: Sequence[Path],
    tops: Sequence[str] | None = None,
    thresholds: Sequence[float] | None = None,
) -> list[Placement]:
    """Which picture goes into which folder, the best first; equal scores by name.

    Args:
        scores: of all pictures.
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
    ranked = sorted(scores, key=lambda image: (-scores[image], image.name, str(image)))
    if tops is not None:
        sizes = cut_by_top(len(ranked), tops)
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        places = [sum(place >= end for end in ends) for place in range(len(ranked))]
    else:
        if list(cuts) != sorted(cuts, reverse=True):
            raise InputError(f"--threshold: the thresholds must fall, got {', '.join(map(str, cuts))}")
        places = [sum(scores[image] < cut for cut in cuts) for image in ranked]
    return [
        Placement(image, scores[image], folders[place] / image.name) for image, place in zip(ranked, places)
    ]


def conflicts(placements: Sequence[Placement]) -> list[tuple[Path, str]]:
    """Pictures whose place another file has, or another picture wants."""
    taken: set[Path] = set()
    found = []
    for p in placements:
        if not p.there and (p.target in taken or os.path.lexists(p.target)):
            found.append((p.image, f"{p.target} exists already and is not overwritten"))
        taken.add(p.target)
    return found


def carry_out(placement: Placement, copy: bool) -> None:
    """Move or copy one picture; nothing is ever overwritten.

    Raises:
        ImageError: another file is in its place, or the file system refuses.
    """
    source, target = placement.image, placement.target
    if placement.there:
        return
    try:
        if os.path.lexists(target):
            if copy and filecmp.cmp(source, target, shallow=False):
                return  # copied by an earlier run
            raise ImageError(str(source), f"{target} exists already and is not overwritten")
        target.parent.mkdir(parents=True, exist_ok=True)
        if copy:
            _copy(source, target)
        else:
            _move(source, target)
    except FileExistsError as error:
        raise ImageError(str(source), f"{target} exists already and is not overwritten") from error
    except OSError as error:
        raise ImageError(str(source), f"cannot go to {target}: {error.strerror or error}") from error


def read_scores(path: Path) -> dict[str, float]:
    """Names of pictures -> scores, from a file that ``reward-core score`` wrote (.csv, .json, .parquet).

    Raises:
        InputError: no such file, another form, or several scores of one picture.
    """
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        elif path.suffix == ".json":
            rows = read_json(path)
        elif path.suffix == ".parquet":
            from .score_file import _pyarrow

            rows = _pyarrow().parquet.read_table(path).to_pylist()
        else:
            raise InputError(f"{path}: the extension must be .csv, .json or .parquet")
        found: dict[str, float] = {}
        for row in rows:
            if row["score"] in (None, ""):
                continue  # a picture that could not be scored
            name, score = os.path.basename(row["image"]), float(row["score"])
            if found.setdefault(name, score) != score:
                raise InputError(f"{path}: {name} has several scores; sort needs one for each picture")
        return found
    except (KeyError, TypeError, AttributeError, ValueError, OSError, CheckpointError) as error:
        if isinstance(error, InputError):
            raise
        detail = f"column {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: no scores of `reward-core score` ({detail})") from error


def _move(source: Path, target: Path) -> None:
    try:
        os.link(source, target)  # unlike a rename, it fails where something came in between
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, or another one
        _copy(source, target)
    os.unlink(source)


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copy2(source, temporary)
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise
        except OSError:
            if os.path.lexists(target):
                raise FileExistsError(str(target)) from None
            os.rename(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
