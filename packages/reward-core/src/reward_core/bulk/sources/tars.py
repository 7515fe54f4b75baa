"""webdataset tars: files of one name and several extensions in a row are one sample."""

from __future__ import annotations

import glob
import io
import json
import os
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import DataWarning, InputError
from ...inputs.image_formats import is_image_name
from ...metadata.text_encoding import decode_text
from ..input_row import InputRow, input_row
from .base import WHOLE_DIGEST_LIMIT, Source, check_rows, file_digest

_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class Tars:
    """Tar files on this machine.

    patterns: paths, with braces ("shard-{000000..000999}.tar") or wildcards if need be.
    prompt_column: the extension of the prompt's file; "json.caption" is the key "caption" of a .json.
    image_column: the extension of the image's file (default: any usual one).

    As webdataset has it, a sample is the files whose names are the same up to the first dot; of several
    images in one the first counts, with the prompt whose name goes on like its own, if there is one. The
    others are counted, and a DataWarning names the first of them.
    """

    patterns: tuple[str, ...]
    prompt_column: str = "txt"
    image_column: str | None = None

    def files(self) -> list[str]:
        """The tars' paths, in order. Raises InputError where there is none, or a pattern is wrong."""
        expand = _webdataset().shardlists.expand_urls
        paths: list[str] = []
        for pattern in map(os.fspath, self.patterns):
            try:
                names = [pattern] if os.path.exists(pattern) else expand(pattern)
            except ValueError as error:
                reason = f"not a pattern of tars: {error}; braces are written as in shard-{{000..999}}.tar"
                raise InputError(f"{pattern}: {reason}") from error
            for name in names:
                paths += sorted(glob.glob(name)) or [name]
        for path in paths:
            if "://" in path or path.startswith("pipe:"):
                raise InputError(f"{path}: tars must lie on this machine")
            if not os.path.isfile(path):
                raise InputError(f"{path}: no such tar file")
        return paths

    def open(self, folder: Path) -> TarSource:
        paths = [os.path.abspath(path) for path in self.files()]
        return TarSource(paths, self.prompt_column, self.image_column)


class TarSource(Source):
    """Goes through the tars' headers once, to count samples."""

    def __init__(self, paths: list[str], prompt_column: str, image_column: str | None):
        self.paths, self.prompt_column, self.image_column = paths, prompt_column, image_column
        self.samples = [0] * len(paths)
        first_extra = ""
        for number, path in enumerate(paths):
            for extra in self._extra_images(path, number):
                first_extra = first_extra or f"{path}: {extra!r}"
                self.extra_images += 1
        self.rows = sum(self.samples)
        check_rows(", ".join(paths[:3]), self.rows)
        if first_extra:
            images = "1 image is" if self.extra_images == 1 else f"{self.extra_images:,} images are"
            warnings.warn(
                f"{images} not scored, because another image of the same sample is; "
                f"the first is {first_extra}. a sample is the files in a row with the same name up to "
                "the first dot: rename files that do not belong together, or choose the images to score with "
                "--image-column",
                DataWarning,
                stacklevel=2,
            )

    def _extra_images(self, path: str, number: int) -> Iterator[str]:
        """The names of a tar's images that are not scored; counts the tar's samples."""
        repeated: list[str] = []
        for sample in _grouped(path, repeated):
            self.samples[number] += 1
            if isinstance(sample, dict):
                yield from (f"{sample['__key__']}.{suffix}" for suffix in self._images(sample)[1:])
        yield from (
            name for name in repeated if self._is_image(os.path.basename(name).lower().partition(".")[2])
        )

    def _images(self, sample: dict[str, Any]) -> list[str]:
        """What the names of a sample's images have behind its key."""
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
            for sample in _samples(path, start):
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
        except ValueError as error:
            return InputRow(None, name, None, f"the prompt cannot be read: {error}")
        return input_row(prompt, sample.get(suffix) if suffix else None, name=name)

    def _prompt(self, sample: dict[str, Any], middle: str) -> Any:
        """Raises ValueError for a text in another encoding.

        Args:
            middle: what the image's name has between the sample's key and its extension.
        """
        is_key = self.prompt_column.startswith("json.")
        wanted = "json" if is_key else self.prompt_column
        beside = f"{middle}.{wanted}" if middle else wanted
        ending = [suffix for suffix in sample if suffix.rpartition(".")[2] == wanted]
        suffix = next((suffix for suffix in (beside, wanted) if suffix in sample), None)
        if suffix is None and len(ending) != 1:  # none, or it is not known which
            return None
        suffix = suffix or ending[0]
        text = decode_text(sample[suffix]).strip()
        if not is_key:
            return text
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return found.get(self.prompt_column.removeprefix("json.")) if isinstance(found, dict) else None


class _Header(tarfile.TarInfo):
    """Behind the first, tarfile takes any header that it cannot read for the end; here that is damage."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(tar)
        # typeshed does not know these two: the file's end; a block of zeros
        except (tarfile.EmptyHeaderError, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no header of a file at byte {tar.offset}: {error}") from error


def _tar_identity(path: str, whole: bool) -> list[str | int]:
    """What tells a tar from another of its name."""
    if whole:
        return [file_digest(Path(path))]
    return [os.path.getsize(path), os.stat(path).st_mtime_ns]


def _samples(path: str, start: int) -> Iterator[dict[str, Any] | str]:
    """A tar's samples from one on, with their files' bytes by extension; damage comes as a last error."""
    for sample in islice(_grouped(path), start, None):
        if isinstance(sample, dict):
            sample = {suffix: value() if callable(value) else value for suffix, value in sample.items()}
        yield sample


def _grouped(path: str, repeated: list[str] | None = None) -> Iterator[dict[str, Any] | str]:
    """A tar's samples, each file a function that reads it while the next sample has not been asked for.

    Args:
        repeated: takes the names that a sample has already. Of two files of one name the first counts.
    """
    group_by_keys = _webdataset().tariterators.group_by_keys
    split = _webdataset().tariterators.base_plus_ext
    damage: list[str] = []
    repeated = [] if repeated is None else repeated

    def files(tar: tarfile.TarFile) -> Iterator[dict[str, Any]]:
        # A plain tar can be gone back in; what is compressed is read as it comes.
        plain = isinstance(tar.fileobj, io.BufferedReader)
        key: str | None = None
        suffixes: set[str] = set()
        try:
            for member in tar:
                if member.isfile():
                    before, (key, suffix) = key, split(member.name)
                    suffixes = suffixes if key == before else set()
                    if key is not None and suffix.lower() in suffixes:
                        repeated.append(member.name)
                    suffixes.add((suffix or "").lower())
                    read = partial(_read, tar, member) if plain else partial(bytes, _read(tar, member))
                    yield {"fname": member.name, "data": read, "__url__": path}
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
        except _DAMAGE as error:
            damage.append(f"the tar is damaged or truncated: {error}")

    try:
        # Zeros are no end but for the file's own: tars may be joined by `cat`.
        with tarfile.open(path, tarinfo=_Header, ignore_zeros=True) as tar:
            yield from group_by_keys(files(tar), handler=lambda error: True)
    except _DAMAGE as error:
        damage.append(f"the tar is damaged or truncated: {error}")
    yield from damage


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    try:
        file = tar.extractfile(member)
        assert file is not None  # the member is a file
        return file.read()
    except _DAMAGE:
        return b""  # the end of the tar is missing, which is told of after its last sample


def _webdataset():
    try:
        import webdataset
    except ImportError as error:
        raise InputError('tars need webdataset: pip install "reward-core[webdataset]"') from error
    return webdataset
