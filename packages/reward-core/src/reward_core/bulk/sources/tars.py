"""webdataset tars: files of one name and several extensions in a row are one sample."""

from __future__ import annotations

import glob
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..input_row import InputRow, input_row
from .base import check_rows

_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error)
PICTURES = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm")


@dataclass(frozen=True)
class Tars:
    """Tar files on this machine.

    patterns: paths, with braces ("shard-{000000..000999}.tar") or wildcards if need be.
    prompt_column: the extension of the prompt's file; "json.caption" is the key "caption" of a .json.
    image_column: the extension of the picture's file (default: any usual one).
    """

    patterns: tuple[str, ...]
    prompt_column: str = "txt"
    image_column: str | None = None

    def open(self, folder: Path) -> TarSource:
        webdataset = _webdataset()
        paths: list[str] = []
        for pattern in map(os.fspath, self.patterns):
            for name in [pattern] if os.path.exists(pattern) else webdataset.shardlists.expand_urls(pattern):
                paths += sorted(glob.glob(name)) or [name]
        for path in paths:
            if "://" in path or path.startswith("pipe:"):
                raise InputError(f"{path}: tars must lie on this machine")
            if not os.path.isfile(path):
                raise InputError(f"{path}: no such tar file")
        return TarSource([os.path.abspath(path) for path in paths], self.prompt_column, self.image_column)


class TarSource:
    """Goes through the tars' headers once, to count samples."""

    def __init__(self, paths: list[str], prompt_column: str, image_column: str | None):
        self.paths, self.prompt_column, self.image_column = paths, prompt_column, image_column
        self.samples = [sum(1 for _ in _grouped(path)) for path in paths]
        self.rows = sum(self.samples)
        check_rows(", ".join(paths[:3]), self.rows)

    def read(self, start: int) -> Iterator[InputRow]:
        for path, samples in zip(self.paths, self.samples):
            if start >= samples:
                start -= samples
                continue
            for sample in _samples(path, start):
                yield self._row(path, sample)
            start = 0

    def fingerprint(self) -> dict[str, Any]:
        tars = [[os.path.basename(path), os.path.getsize(path)] for path in self.paths]
        columns = {"prompt_column": self.prompt_column, "image_column": self.image_column}
        return {"kind": "tars", "tars": tars, "rows": self.rows, **columns}

    def _row(self, path: str, sample: dict[str, Any] | str) -> InputRow:
        name = os.path.basename(path)
        if isinstance(sample, str):
            return InputRow(None, name, None, sample)
        wanted = [self.image_column] if self.image_column else list(PICTURES)
        suffix = next((s for s in sample if s.rpartition(".")[2] in wanted or s in wanted), None)
        name = f"{name}/{sample['__key__']}" + (f".{suffix}" if suffix else "")
        return input_row(self._prompt(sample), sample.get(suffix) if suffix else None, name=name)

    def _prompt(self, sample: dict[str, Any]) -> Any:
        suffix, _, key = self.prompt_column.partition(".")
        data = sample.get(suffix if key else self.prompt_column)
        if data is None:
            return None
        text = data.decode("utf-8", "surrogateescape")
        if not key or suffix != "json":
            return text.strip()
        try:
            found = json.loads(text)
        except ValueError:
            return None
        return found.get(key) if isinstance(found, dict) else None


def _samples(path: str, start: int) -> Iterator[dict[str, Any] | str]:
    """A tar's samples from one on, with their files' bytes by extension; damage comes as a last error."""
    for sample in islice(_grouped(path), start, None):
        if isinstance(sample, dict):
            sample = {suffix: value() if callable(value) else value for suffix, value in sample.items()}
        yield sample


def _grouped(path: str) -> Iterator[dict[str, Any] | str]:
    """A tar's samples, each file a function that reads it while the next sample has not been asked for."""
    group_by_keys = _webdataset().tariterators.group_by_keys
    damage: list[str] = []

    def files(tar: tarfile.TarFile) -> Iterator[dict[str, Any]]:
        # A plain tar can be gone back in; what is compressed is read as it comes.
        plain = isinstance(tar.fileobj, io.BufferedReader)
        try:
            for member in tar:
                if member.isfile():
                    read = partial(_read, tar, member) if plain else partial(bytes, _read(tar, member))
                    yield {"fname": member.name, "data": read, "__url__": path}
                tar.members = []  # tarfile would keep them all
        except _DAMAGE as error:
            damage.append(f"the tar is damaged or truncated: {error}")

    try:
        with tarfile.open(path) as tar:
            # Of two files of one name in a sample the first counts.
            yield from group_by_keys(files(tar), handler=lambda error: True)
    except _DAMAGE as error:
        damage.append(f"the tar is damaged or truncated: {error}")
    yield from damage


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    try:
        return tar.extractfile(member).read()
    except _DAMAGE:
        return b""  # the end of the tar is missing, which is told of after its last sample


def _webdataset():
    try:
        import webdataset
    except ImportError as error:
        raise InputError('tars need webdataset: pip install "reward-core[webdataset]"') from error
    return webdataset
