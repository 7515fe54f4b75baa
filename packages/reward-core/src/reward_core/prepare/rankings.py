"""Any source that `read_splits` reads, as a folder: images out of tables become files, all are checked."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ImageError, InputError
from ..files.foreign_bytes import read_regular
from ..files.full_disk import raise_if_full
from ..files.limits import MAX_IMAGE_FILE_BYTES
from ..inputs.image_file import ImageSource, StoredImage, decoded_image, image_name, image_state
from ..rankings import SPLITS, RankedPrompt
from ..rankings.check import drop_broken, find_broken, in_reading_order
from ..rankings.comparisons import regroup
from ..rankings.splits import available_splits
from ..rankings.stored_images import ReadImage
from ..runs.cpus import usable_cpus
from ..runs.progress import bar
from .folder import Prepared, preparing, write_folder

JOURNAL = ".pictures.jsonl"  # name in the table -> file here, or why there is none; state of the image


def prepare_rankings(
    out: Path,
    source: str | os.PathLike[str],
    *,
    images: Path | None = None,
    columns: Mapping[str, str] | None = None,
    config: str | None = None,
    copy: bool = False,
    validation: float = 0.05,
    test: float = 0.05,
    say: Callable[[str], None] = lambda line: None,
) -> Prepared:
    """Fill ``out`` from a file or dataset of rankings or pairs.

    Images inside tables and zips become files in ``out``/images, named by their content, so one that occurs
    in many pairs is there once, and pairs are grouped by it. Images that are files stay where they are.
    The same call goes on where a killed one stopped.

    Args:
        images, columns, config: as for ``read_splits``.
        copy: copy images that are files, too.
        validation, test: shares of the prompts, each in [0, 1), taken from the training data by the prompts'
            hash where the source has no such split. All groups of a prompt are in the same split.
        say: takes lines about what is going on.

    Raises:
        InputError, HubError, DiskFullError.
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise InputError(
            f"shares of {validation} and {test} for validation and test leave nothing to train on"
        )
    where = str(Path(source).absolute()) if Path(source).exists() else str(source)
    settings = {"data": where, "columns": dict(columns or {}), "config": config}
    with preparing(out, settings):
        splits = _split(available_splits(source, images, columns, config), validation, test)
        found = {}
        for name, data in splits.items():
            say(f"{name}: {len(data):,} groups; checking their images")
            stored, broken = _as_files(data, out, copy)
            remaining, report = drop_broken(stored, broken)
            found[name] = (regroup(remaining), report)
        return write_folder(out, found, {**settings, "validation": validation, "test": test})


def _split(
    splits: dict[str, list[RankedPrompt]], validation: float, test: float
) -> dict[str, list[RankedPrompt]]:
    """The source's own splits; from the training data what it lacks."""
    shares = {"test": 0 if splits["test"] else test, "validation": 0 if splits["validation"] else validation}
    result: dict[str, list[RankedPrompt]] = {name: [] for name in SPLITS}
    for name in ("validation", "test"):
        result[name] += splits[name]
    for item in splits["train"]:
        position = (
            int(hashlib.sha256(item.prompt.encode(errors="backslashreplace")).hexdigest()[:8], 16) / 2**32
        )
        if position < shares["test"]:
            result["test"].append(item)
        elif position < shares["test"] + shares["validation"]:
            result["validation"].append(item)
        else:
            result["train"].append(item)
    return result


def _as_files(
    data: Sequence[RankedPrompt], out: Path, copy: bool
) -> tuple[list[RankedPrompt], dict[str, str]]:
    """The data with files for images, and name -> reason of those that cannot be read."""
    sources = {image_name(image): image for item in data for image in item.images}
    inside = in_reading_order({n: i for n, i in sources.items() if copy or isinstance(i, StoredImage)})
    broken = find_broken(image for name, image in sources.items() if name not in inside)
    files: dict[str, Path] = {}
    for name, file, reason in _stored(inside, out):
        if file is None:
            broken[name] = reason or "cannot be read"
        else:
            files[name] = out / file
    replaced = [
        replace(item, images=tuple(files.get(image_name(image), image) for image in item.images))
        for item in data
    ]
    return replaced, broken


def _stored(sources: Mapping[str, ImageSource], out: Path) -> Iterator[tuple[str, str | None, str | None]]:
    """(name, file in ``out``, why there is none) of each image; what a former call did is taken from its
    journal.
    """
    for leftover in out.glob("images/*/.*.tmp"):
        leftover.unlink()
    states = {name: list(image_state(image)) for name, image in sources.items()}
    known = {
        name: (file, reason)
        for name, (file, reason, state) in _journal(out).items()
        if states.get(name) == state
    }
    yield from ((name, *known[name]) for name in sources if name in known)
    new = [(name, image) for name, image in sources.items() if name not in known]
    if not new:
        return
    with (
        (out / JOURNAL).open("a", encoding="utf-8") as journal,
        bar() as shown,
        ThreadPoolExecutor(min(16, usable_cpus())) as pool,
    ):
        results = pool.map(lambda entry: _store(entry[0], entry[1], out), new)
        try:
            for name, file, reason in shown.track(results, total=len(new), description="storing images"):
                journal.write(json.dumps([name, file, reason, states[name]]) + "\n")
                journal.flush()
                yield name, file, reason
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _journal(out: Path) -> dict[str, tuple[str | None, str | None, list[Any] | None]]:
    """Name -> (file, why there is none, the image's state then). A later line is the newer one."""
    path = out / JOURNAL
    if not path.is_file():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):  # the last line of a killed process
        os.truncate(path, len(whole))
    entries: list[list[Any]] = [json.loads(line) for line in whole.splitlines()]
    return {
        name: (file, reason, state[0] if state else None)
        for name, file, reason, *state in entries
        if file is None or (out / file).is_file()
    }


def _store(name: str, image: ImageSource, out: Path) -> tuple[str, str | None, str | None]:
    """Check an image and write its bytes, unchanged, under a name that follows from them."""
    try:
        content = image.read() if isinstance(image, StoredImage) else read_regular(name, MAX_IMAGE_FILE_BYTES)
        with decoded_image(ReadImage(name, content)) as decoded:
            kind = decoded.format
            if decoded.mode != "RGB":
                decoded.convert("RGB")
    except ImageError as error:
        return name, None, error.reason
    except Exception as error:  # a damaged table
        raise_if_full(error, out)
        return name, None, f"cannot be read: {error}"
    digest = hashlib.sha256(content).hexdigest()[:32]
    suffix = {"JPEG": "jpg"}.get(kind or "", (kind or "img").lower())
    file = f"images/{digest[:2]}/{digest}.{suffix}"
    path = out / file
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{id(content)}.tmp")
        temporary.write_bytes(content)
        os.replace(temporary, path)
    return name, file, None
