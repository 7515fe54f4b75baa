"""webdataset tars: consecutive files with the same name and different extensions are one sample."""

from __future__ import annotations

import glob
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import DataWarning, InputError, not_installed
from ...files.json_file import parse_json
from ...inputs.image_formats import is_image_name
from ...metadata.text_encoding import decode_text
from ...runs.caller_warning import quoted, warn_caller
from ..input_row import InputRow, input_row
from .base import WHOLE_DIGEST_LIMIT, Source, check_rows, file_digest
from .tar_file import (
    DamagedTarError,
    KeptFiles,
    MemberError,
    is_compressed,
    members,
    open_tar,
    read_member,
)


@dataclass(frozen=True)
class Tars:
    """Tar files on this machine.

    As in webdataset, a sample consists of the files whose names are the same up to the first dot. If a
    sample has several images, the first one is scored, with the prompt whose name continues like the
    image's if there is one. The other images are counted, and a DataWarning names the first of them.

    Attributes:
        patterns: paths, optionally with braces ("shard-{000000..000999}.tar") or wildcards.
        prompt_column: extension of the prompt file; "json.caption" is the key "caption" of the .json file.
        image_column: extension of the image file (default: any extension of an image).
    """

    patterns: tuple[str, ...]
    prompt_column: str = "txt"
    image_column: str | None = None

    def files(self) -> list[str]:
        """Return the paths of the tars in order. Raise InputError if one is missing or a pattern invalid."""
        expand = _webdataset().shardlists.expand_urls
        paths: list[str] = []
        for pattern in map(os.fspath, self.patterns):
            try:
                names = [pattern] if os.path.exists(pattern) else expand(pattern)
            except ValueError as error:
                raise InputError(
                    f"Cannot read '{pattern}': not a valid pattern ({error}). Write braces as in "
                    "shard-{000..999}.tar."
                ) from error
            for name in names:
                paths += sorted(glob.glob(name)) or [name]
        for path in paths:
            if "://" in path or path.startswith("pipe:"):
                raise InputError(f"Cannot read '{path}': not a local file. Download the tar first.")
            if not os.path.isfile(path):
                raise InputError(f"Cannot read '{path}': no such file. Set --tars to tar files.")
        return paths

    def open(self, folder: Path) -> TarSource:
        paths = [os.path.abspath(path) for path in self.files()]
        return TarSource(paths, self.prompt_column, self.image_column)


class TarSource(Source):
    """The samples of tars. The headers of all tars are read once to count the samples."""

    def __init__(self, paths: list[str], prompt_column: str, image_column: str | None):
        self.paths, self.prompt_column, self.image_column = paths, prompt_column, image_column
        self.samples = [0] * len(paths)
        first_extra = ""
        for number, path in enumerate(paths):
            for extra in self._extra_images(path, number):
                first_extra = first_extra or f"{path}: {quoted(extra)}"
                self.extra_images += 1
        self.rows = sum(self.samples)
        check_rows(", ".join(paths[:3]), self.rows)
        if first_extra:
            images = "1 image is" if self.extra_images == 1 else f"{self.extra_images:,} images are"
            warn_caller(
                f"{images} not scored, because another image of the same sample is; the first is "
                f"{first_extra}. Consecutive files with the same name up to the first dot are one sample: "
                "rename files that do not belong together, or select images with --image-column.",
                DataWarning,
            )

    def _extra_images(self, path: str, number: int) -> Iterator[str]:
        """Yield the names of a tar's images that are not scored, and count its samples."""
        repeated: list[str] = []
        for sample in _grouped(path, repeated):
            self.samples[number] += 1
            if isinstance(sample, dict):
                yield from (f"{sample['__key__']}.{suffix}" for suffix in self._images(sample)[1:])
        yield from (
            name for name in repeated if self._is_image(os.path.basename(name).lower().partition(".")[2])
        )

    def _images(self, sample: dict[str, Any]) -> list[str]:
        """Return the suffixes (the names after the key) of a sample's images."""
        return [suffix for suffix in sample if self._is_image(suffix)]

    def _is_image(self, suffix: str) -> bool:
        if self.image_column:
            return self.image_column in (suffix, suffix.rpartition(".")[2])
        return is_image_name(f".{suffix}")

    def read(self, start: int) -> Iterator[InputRow]:
        for path, samples in zip(self.paths, self.samples):
            if start >= samples:
                start -= samples
                continue
            for sample in islice(_grouped(path, keep=self._is_needed), start, None):
                yield self._row(path, sample)
            start = 0

    def fingerprint(self) -> dict[str, Any]:
        columns = {"prompt_column": self.prompt_column, "image_column": self.image_column}
        whole = sum(map(os.path.getsize, self.paths)) <= WHOLE_DIGEST_LIMIT
        tars = [[os.path.basename(path), *_tar_identity(path, whole)] for path in self.paths]
        return {"kind": "tars", "tars": tars, "rows": self.rows, **columns}

    def _row(self, path: str, sample: dict[str, Any] | str) -> InputRow:
        name = os.path.basename(path)
        if isinstance(sample, str):
            return InputRow(None, name, None, sample)
        suffix = next(iter(self._images(sample)), None)
        name = f"{name}/{sample['__key__']}" + (f".{suffix}" if suffix else "")
        try:
            prompt = self._prompt(sample, (suffix or "").rpartition(".")[0])
        except (ValueError, MemberError) as error:
            return InputRow(None, name, None, f"cannot read the prompt: {error}")
        try:
            return input_row(prompt, sample[suffix]() if suffix else None, name=name)
        except MemberError as error:
            return InputRow(prompt if isinstance(prompt, str) else None, name, None, str(error))

    def _is_needed(self, suffix: str) -> bool | None:
        """Return True for an image, None for a text that may be the prompt, False for other files."""
        if self._is_image(suffix):
            return True
        extension = "json" if self.prompt_column.startswith("json.") else self.prompt_column
        return None if extension in (suffix, suffix.rpartition(".")[2]) else False

    def _prompt(self, sample: dict[str, Any], middle: str) -> Any:
        """Return the prompt of a sample, or None if there is none or it is ambiguous.

        Args:
            sample: the files of the sample.
            middle: the part of the image's name between the sample's key and the extension.

        Raises:
            ValueError: the text is in an unknown encoding.
            MemberError: the text is too large.
        """
        is_key = self.prompt_column.startswith("json.")
        extension = "json" if is_key else self.prompt_column
        like_image = f"{middle}.{extension}" if middle else extension
        candidates = [suffix for suffix in sample if suffix.rpartition(".")[2] == extension]
        suffix = next((suffix for suffix in (like_image, extension) if suffix in sample), None)
        if suffix is None and len(candidates) != 1:
            return None
        suffix = suffix or candidates[0]
        text = decode_text(sample[suffix]()).strip()
        if not is_key:
            return text
        try:
            document = parse_json(text)
        except ValueError:
            return None
        return document.get(self.prompt_column.removeprefix("json.")) if isinstance(document, dict) else None


def _tar_identity(path: str, whole: bool) -> list[str | int]:
    """Return the tar's checksum, or its size and modification time if not ``whole``."""
    if whole:
        return [file_digest(Path(path))]
    return [os.path.getsize(path), os.stat(path).st_mtime_ns]


def _grouped(
    path: str, repeated: list[str] | None = None, keep: Callable[[str], bool | None] | None = None
) -> Iterator[dict[str, Any] | str]:
    """Yield the samples of a tar, then a string that describes the damage if the tar is damaged.

    A sample maps suffixes to functions that read the file; they are valid until the next sample.

    Args:
        path: the tar.
        repeated: list to which names are added that occur twice in a sample; only the first file is used.
        keep: which files of a compressed tar to read, see ``_is_needed`` (default: none).
    """
    group_by_keys = _webdataset().tariterators.group_by_keys
    damage: list[str] = []
    repeated = [] if repeated is None else repeated

    def files(tar: tarfile.TarFile) -> Iterator[dict[str, Any]]:
        key: str | None = None
        suffixes: set[str] = set()
        kept = KeptFiles(keep)
        try:
            for member in members(tar):
                previous_key, (key, suffix) = key, _key_and_suffix(member.name)
                suffix = (suffix or "").lower()
                if key != previous_key:
                    suffixes, kept = set(), KeptFiles(keep)
                if key is not None and suffix in suffixes:
                    repeated.append(member.name)
                    continue
                suffixes.add(suffix)
                # Seek in a plain tar later; read a compressed one now.
                read: Callable[[], bytes] = partial(read_member, tar, member)
                if is_compressed(tar):
                    read = kept.read(tar, member, suffix)
                yield {"fname": member.name, "data": read, "__url__": path}
        except DamagedTarError as error:
            damage.append(str(error))

    try:
        with open_tar(path) as tar:
            yield from group_by_keys(files(tar), _key_and_suffix, handler=lambda error: True)
    except DamagedTarError as error:
        damage.append(str(error))
    yield from damage


def _key_and_suffix(name: str) -> tuple[str | None, str | None]:
    """Split a file name at the first dot after its folder, like webdataset, but in linear time."""
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    if dot and (stem or (slash and "." not in folder.rpartition("/")[2])):
        return folder + slash + stem, suffix
    return None, None


def _webdataset():
    try:
        import webdataset
    except ImportError as error:
        raise InputError(f"Cannot read tars: {not_installed('webdataset', 'webdataset')}") from error
    return webdataset
