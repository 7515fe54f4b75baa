"""Tars that somebody else wrote: read to the end of what is whole, with bounds on size and memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import IO, Any, cast

from ...files.foreign_bytes import guarded, reason
from ...files.limits import MB, Limit

# Bytes of one image's file in a tar; the same bound as for a file on the disk.
MAX_TAR_MEMBER_BYTES = Limit("MAX_TAR_MEMBER_BYTES", 512 * MB)
# Bytes of the texts of one sample of a compressed tar, which are kept until its image is read.
MAX_TAR_TEXT_BYTES = Limit("MAX_TAR_TEXT_BYTES", 16 * MB)
# How many times its size a compressed tar may unpack to. Images hardly shrink, headers and captions do.
MAX_TAR_RATIO = Limit("MAX_TAR_RATIO", 200)
# Bytes that any compressed tar may unpack to: tars of a few tiny drawings shrink more than 200 times.
MIN_TAR_BYTES = 256 * MB
# Bytes of one member's headers: long names, pax records, the map of a sparse file. Usual are some hundreds.
MAX_HEADER_BYTES = 1 * MB


class DamagedTarError(Exception):
    """A tar that cannot be read on; the message says why."""


class MemberError(Exception):
    """A file in a tar that is not read; the message says why."""


@contextmanager
def open_tar(path: str) -> Iterator[tarfile.TarFile]:
    """Open a tar, plain or compressed.

    Raises:
        DamagedTarError: the tar cannot be read.
    """
    with guarded(_damage):
        file = _Bounded(path)
    with closing(file):
        with guarded(_damage):
            # Blocks of zeros end a tar only at the file's end: tars may be joined by `cat`.
            tar = tarfile.TarFile(fileobj=cast(Any, file), mode="r", tarinfo=_Header, ignore_zeros=True)
        yield tar


def members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the regular files of a tar.

    Raises:
        DamagedTarError: the tar cannot be read to its end.
    """
    with guarded(_damage):
        for member in tar:
            if member.isfile():
                yield member
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all


def _damage(error: BaseException) -> DamagedTarError:
    return DamagedTarError(f"the tar is damaged or truncated: {reason(error)}")


def is_compressed(tar: tarfile.TarFile) -> bool:
    """Return whether a tar can only be read from its beginning to its end."""
    return _bounded(tar).is_compressed


def read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, most: int | None = None) -> bytes:
    """Return a file's content; empty where the tar ends before it, which its last error says.

    Raises:
        MemberError: the file is larger than ``most`` bytes (default: MAX_TAR_MEMBER_BYTES).
    """
    most = MAX_TAR_MEMBER_BYTES.value if most is None else most
    if member.size > most:
        raise MemberError(
            f"the file is too large: its header says {member.size:,} bytes, at most {most:,} are read "
            f"({MAX_TAR_MEMBER_BYTES.advice})"
        )
    try:
        with guarded(DamagedTarError):
            file = tar.extractfile(member)
            return b"" if file is None else file.read()
    except DamagedTarError:
        return b""


class KeptFiles:
    """The files of one sample of a compressed tar, read while the tar is at them: its image, its texts."""

    def __init__(self, keep: Callable[[str], bool | None] | None):
        """keep: what a file behind its key is: True an image, None a text, False not needed."""
        self.keep, self.has_image, self.texts_left = keep, False, MAX_TAR_TEXT_BYTES.value

    def read(self, tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> Callable[[], bytes]:
        is_image = self.keep(suffix) if self.keep else False
        if is_image is False or (is_image and self.has_image):
            return bytes
        most = None if is_image else self.texts_left
        try:
            content = read_member(tar, member, most)
        except MemberError as error:
            return partial(_fail, error)
        if is_image:
            self.has_image = True
        else:
            self.texts_left -= len(content)
        return partial(bytes, content)


def _fail(error: MemberError) -> bytes:
    raise error


class _Bounded:
    """A tar's bytes, unpacked. Headers cannot make it read much, nor unpack without end."""

    def __init__(self, path: str):
        self.file, self.is_compressed = _unpacked(path)
        most = max(MIN_TAR_BYTES, MAX_TAR_RATIO.value * os.path.getsize(path))
        self.end = most if self.is_compressed else None
        self.left: int | None = None  # bytes that may be read of one member's headers

    def read(self, size: int) -> bytes:
        if size < 0 or (self.left is not None and size > self.left):
            raise tarfile.ReadError(f"a member's header asks for {size:,} bytes")
        self._check_end(self.file.tell() + size)
        data = self.file.read(size)
        if self.left is not None:
            self.left -= len(data)
        return data

    def seek(self, position: int) -> int:
        self._check_end(position)
        return self.file.seek(position)

    def tell(self) -> int:
        return self.file.tell()

    def close(self) -> None:
        self.file.close()

    def _check_end(self, position: int) -> None:
        if self.end is not None and position > self.end:
            raise tarfile.ReadError(
                f"it unpacks to more than {self.end:,} bytes, more than {MAX_TAR_RATIO.value:,} times its "
                f"size; unpack it yourself to score it ({MAX_TAR_RATIO.advice})"
            )


def _unpacked(path: str) -> tuple[IO[bytes], bool]:
    """Open a tar by its first bytes; return it with whether it is compressed."""
    with open(path, "rb") as file:
        head = file.read(6)
    if head.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(path)), True
    if head.startswith(b"BZh"):
        return bz2.open(path), True
    if head == b"\xfd7zXZ\0" or head.startswith(b"\x5d\0\0"):
        return lzma.open(path), True
    return open(path, "rb"), False


def _bounded(tar: tarfile.TarFile) -> _Bounded:
    return cast(_Bounded, tar.fileobj)


class _Header(tarfile.TarInfo):
    """A member's headers. tarfile takes a header that it cannot read for the end; here that is damage."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Header:
        start, file = tar.offset, _bounded(tar)
        file.left = MAX_HEADER_BYTES
        try:
            member = super().fromtarfile(tar)
        # typeshed does not know these two: the file's end; a block of zeros
        except (tarfile.EmptyHeaderError, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no header of a file at byte {start}: {error}") from error
        finally:
            file.left = None
        if member.size < 0 or tar.offset <= start:  # it would be read again and again
            raise tarfile.ReadError(f"the size of a file at byte {start} is negative")
        return member
