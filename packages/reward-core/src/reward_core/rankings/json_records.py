"""Read and write ImageReward's JSON format: {"id", "prompt", "generations", "ranking"} per prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files.json_file import write_json
from ..inputs.image_file import ImageSource, image_name
from .ranked_prompt import RankedPrompt

RANKINGS_FILE = "rankings.json"


def read_record(
    where: str,
    record: Mapping[str, Any],
    columns: Mapping[str, str],
    resolve: Callable[[Any], ImageSource | None],
) -> RankedPrompt:
    """Return the ranking in a record. Records of ShapesBench also have "utilities", "faults" and "objects".

    Args:
        where: name of the record in errors.
        record: the record.
        columns: role -> column, see forms.py.
        resolve: function from an image's cell to the image, or None if the cell has none.

    Raises:
        InputError: the record is invalid.
    """
    names, ranks = record.get(columns["images"]), record.get(columns["ranking"])
    prompt = record.get(columns["prompt"])
    if not isinstance(prompt, str):
        raise InputError(f"Cannot read {where}: the prompt must be a string, got {prompt!r:.80}.")
    cells = [resolve(name) for name in names] if isinstance(names, (list, tuple)) else [None]
    images = [image for image in cells if image is not None]
    if len(images) < len(cells):
        raise InputError(
            f"Cannot read {where}: {columns['images']!r} must be a list of file names, got {names!r:.80}."
        )
    if not isinstance(ranks, (list, tuple)) or not all(type(rank) is int for rank in ranks):
        raise InputError(
            f"Cannot read {where}: {columns['ranking']!r} must be a list of integers, got {ranks!r:.80}."
        )
    utilities, faults = record.get("utilities"), record.get("faults")
    for key, values in ((columns["ranking"], ranks), ("utilities", utilities), ("faults", faults)):
        if values is not None and (not isinstance(values, (list, tuple)) or len(values) != len(images)):
            raise InputError(
                f"Cannot read {where}: it has {len(images)} images, but {key!r} is {values!r:.80}."
            )
    try:
        if utilities is not None and not all(math.isfinite(float(value)) for value in utilities):
            raise InputError(f"Cannot read {where}: 'utilities' must be numbers, got {utilities!r:.80}.")
        return RankedPrompt(
            str(record.get(columns.get("id", "id"), "")),
            prompt,
            tuple(images),
            tuple(ranks),
            None if utilities is None else tuple(map(float, utilities)),
            None
            if faults is None
            else tuple(tuple(fault["kind"] for fault in of_image) for of_image in faults),
            record.get("objects"),
        )
    except InputError:
        raise
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise InputError(f"Cannot read {where}: 'utilities' or 'faults' is invalid ({error!r}).") from error


def write_rankings(path: Path, data: Sequence[RankedPrompt]) -> None:
    """Write rankings in ImageReward's JSON format, atomically.

    The names of images in the file's folder are relative to it; other images have absolute paths.

    Raises:
        InputError: an image is not a file.
    """
    folder = path.parent.absolute()
    records = []
    for item in data:
        record: dict[str, Any] = {
            "id": item.id,
            "prompt": item.prompt,
            "generations": [_relative(image, folder) for image in item.images],
            "ranking": list(item.ranks),
        }
        if item.utilities is not None:
            record["utilities"] = list(item.utilities)
        if item.faults is not None:
            record["faults"] = [[{"kind": kind} for kind in of_image] for of_image in item.faults]
        if item.objects is not None:
            record["objects"] = item.objects
        records.append(record)
    write_json(path, records)


def _relative(image: ImageSource, folder: Path) -> str:
    name = image_name(image)
    if "://" in name:
        return name
    if not isinstance(image, (str, Path)):
        raise InputError(f"Cannot write rankings with '{name}': it is not a file. Save the image first.")
    absolute = Path(name).absolute()
    return (absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute).as_posix()
