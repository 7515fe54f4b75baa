"""Convert any source that ``read_splits`` reads to a training folder with checked image files."""

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

JOURNAL = ".pictures.jsonl"  # for each image: name in the source, file or error, state of the source


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
    """Prepare a folder from a file or dataset of rankings or pairs. A killed call resumes if repeated.

    Images in tables and zips become files in ``out``/images with the hash of their content as name. So an
    image that occurs in many pairs is stored once, and pairs are grouped by image. Image files are only
    referenced.

    Args:
        out: the folder to write.
        source, images, columns, config: see ``read_splits``.
        copy: copy image files instead of referencing them.
        validation, test: fractions of the prompts, each in [0, 1), to take from the training data if the
            source has no such split. They are chosen by the hash of the prompt, so all groups of a prompt
            are in the same split.
        say: called with progress messages.

    Raises:
        InputError: the source is invalid, or the folder cannot be used.
        HubError: a download failed.
        DiskFullError: the disk is full.
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise InputError(
            f"Cannot split the data: validation={validation} and test={test} leave no training data. Their "
            "sum must be below 1."
        )
    location = str(Path(source).absolute()) if Path(source).exists() else str(source)
    settings = {"data": location, "columns": dict(columns or {}), "config": config}
    with preparing(out, settings):
        splits = _split(available_splits(source, images, columns, config), validation, test)
        results = {}
        for name, data in splits.items():
            say(f"{name}: {len(data):,} groups; checking their images")
            stored, broken = _as_files(data, out, copy)
            remaining, report = drop_broken(stored, broken)
            results[name] = (regroup(remaining), report)
        return write_folder(out, results, {**settings, "validation": validation, "test": test})


def _split(
    splits: dict[str, list[RankedPrompt]], validation: float, test: float
) -> dict[str, list[RankedPrompt]]:
    """Return the splits of the source; take missing ones from the training data."""
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
    """Store images as files; return the data with those files, and the errors of images by name."""
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
    """Yield (name, file in ``out``, error) of each image; use the journal for images stored earlier."""
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
        bar() as progress,
        ThreadPoolExecutor(min(16, usable_cpus())) as pool,
    ):
        results = pool.map(lambda entry: _store(entry[0], entry[1], out), new)
        try:
            for name, file, reason in progress.track(results, total=len(new), description="storing images"):
                journal.write(json.dumps([name, file, reason, states[name]]) + "\n")
                journal.flush()
                yield name, file, reason
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _journal(out: Path) -> dict[str, tuple[str | None, str | None, list[Any] | None]]:
    """Return name -> (file, error, state of the image); later lines replace earlier ones."""
    path = out / JOURNAL
    if not path.is_file():
        return {}
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if len(complete) < len(content):  # remove the incomplete last line of a killed process
        os.truncate(path, len(complete))
    entries: list[list[Any]] = [json.loads(line) for line in complete.splitlines()]
    return {
        name: (file, reason, state[0] if state else None)
        for name, file, reason, *state in entries
        if file is None or (out / file).is_file()
    }


def _store(name: str, image: ImageSource, out: Path) -> tuple[str, str | None, str | None]:
    """Check an image and write its bytes, unchanged, to a file named by their hash."""
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
