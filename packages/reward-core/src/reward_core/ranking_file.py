"""Rankings of pictures by people or by an oracle, read from the original's JSON form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import read_json
from .errors import CheckpointError, InputError
from .image_file import ImageSource

RANKINGS_FILE = "rankings.json"


@dataclass(frozen=True)
class RankedPrompt:
    """Pictures of one prompt with their places.

    places: one integer a picture, 1 is best, equal where neither is preferred. utilities: how good each
    is, where the file says so (any scale, more is better). faults: the kinds of fault of each, likewise.
    objects: how many things the prompt names, likewise.
    """

    id: str
    prompt: str
    images: tuple[ImageSource, ...]
    places: tuple[int, ...]
    utilities: tuple[float, ...] | None = None
    faults: tuple[tuple[str, ...], ...] | None = None
    objects: int | None = None


def read_rankings(path: Path, images: Path | None = None) -> list[RankedPrompt]:
    """The prompts of a rankings file, in its order.

    Form (JSON): [{"id", "prompt", "generations": ["picture.webp", ...], "ranking": [1, 3, 2, ...]}, ...],
    as the original publishes them; ShapesBench's files add "utilities", "faults"
    and "objects".

    Args:
        path: the file, or a folder with a ``rankings.json``.
        images: the folder to which pictures' names are relative; by default the file's own.

    Raises:
        InputError: no such file or folder, or another form; the offending record is named.
    """
    path = path / RANKINGS_FILE if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no such rankings file")
    folder = path.parent if images is None else images
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of pictures")
    try:
        content = read_json(path)
    except CheckpointError as error:
        raise InputError(str(error)) from error
    if not isinstance(content, list) or not content:
        raise InputError(f"{path}: a list of records was expected, got {content!r:.80}")
    return [_record(f"{path}: record {i}", record, folder) for i, record in enumerate(content)]


def _record(where: str, record: Any, folder: Path) -> RankedPrompt:
    if not isinstance(record, dict):
        raise InputError(f"{where} is no object: {record!r:.80}")
    prompt, names, places = (record.get(key) for key in ("prompt", "generations", "ranking"))
    if not isinstance(prompt, str):
        raise InputError(f"{where}: the prompt must be a string, got {prompt!r:.80}")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: 'generations' must be a list of file names, got {names!r:.80}")
    if not isinstance(places, list) or not all(type(place) is int for place in places):
        raise InputError(f"{where}: 'ranking' must be a list of whole numbers, got {places!r:.80}")
    utilities, faults = record.get("utilities"), record.get("faults")
    for key, values in (("ranking", places), ("utilities", utilities), ("faults", faults)):
        if values is not None and (not isinstance(values, list) or len(values) != len(names)):
            raise InputError(f"{where}: {len(names)} pictures, but {key!r} is {values!r:.80}")
    try:
        return RankedPrompt(
            str(record.get("id", "")),
            prompt,
            tuple(folder / name for name in names),
            tuple(places),
            None if utilities is None else tuple(map(float, utilities)),
            None if faults is None else tuple(tuple(fault["kind"] for fault in some) for some in faults),
            record.get("objects"),
        )
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"{where}: 'utilities' or 'faults' is not as expected: {error!r}") from error
