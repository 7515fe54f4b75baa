"""Read untrusted tars up to the first damage, with limits on size and memory."""

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

# Maximum size in bytes of an image in a tar; the same as for an image file on disk.
MAX_TAR_MEMBER_BYTES = Limit("MAX_TAR_MEMBER_BYTES", 512 * MB)
# Maximum bytes of text in one sample of a compressed tar; they are kept until its image is read.
MAX_TAR_TEXT_BYTES = Limit("MAX_TAR_TEXT_BYTES", 16 * MB)
# Maximum compression ratio of a tar. Images hardly compress; headers and captions do.
MAX_TAR_RATIO = Limit("MAX_TAR_RATIO", 200)
# Every compressed tar may unpack to this many bytes: a few tiny drawings can compress more than 200 times.
MIN_TAR_BYTES = 256 * MB
# Maximum bytes of one member's headers (long names, pax records, sparse maps). Usual is some hundred bytes.
MAX_HEADER_BYTES = 1 * MB


class DamagedTarError(Exception):
    """The rest of a tar cannot be read; the message says why."""


class MemberError(Exception):
    """A file in a tar was not read; the message says why."""


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
            # Ignore blocks of zeros before the end of the file: tars may have been joined with `cat`.
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
            tar.members = []  # type: ignore[attr-defined]  # or tarfile would keep all members in memory


def _damage(error: BaseException) -> DamagedTarError:
    return DamagedTarError(f"the tar is damaged or truncated: {reason(error)}")


def is_compressed(tar: tarfile.TarFile) -> bool:
    """Return whether a tar is compressed, so that it can only be read from start to end."""
    return _bounded(tar).is_compressed


def read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, limit: int | None = None) -> bytes:
    """Return the content of a file in a tar.

    The content is empty if the tar is truncated before its end; then ``members`` raises DamagedTarError.

    Args:
        tar: the tar.
        member: the file.
        limit: maximum size in bytes (default: MAX_TAR_MEMBER_BYTES).

    Raises:
        MemberError: the file is larger than ``limit``.
    """
    limit = MAX_TAR_MEMBER_BYTES.value if limit is None else limit
    if member.size > limit:
        raise MemberError(
            f"the file is too large: its header says {member.size:,} bytes, the limit is {limit:,} "
            f"({MAX_TAR_MEMBER_BYTES.advice})"
        )
    try:
        with guarded(DamagedTarError):
            file = tar.extractfile(member)
            return b"" if file is None else file.read()
    except DamagedTarError:
        return b""


class KeptFiles:
    """The image and texts of one sample of a compressed tar, read when the tar reaches them.

    Args:
        keep: function of a file's suffix: True for an image, None for a text, False for other files.
    """

    def __init__(self, keep: Callable[[str], bool | None] | None):
        self.keep, self.has_image, self.texts_left = keep, False, MAX_TAR_TEXT_BYTES.value

    def read(self, tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> Callable[[], bytes]:
        """Read a file if it is needed; return a function that returns its content or raises MemberError."""
        is_image = self.keep(suffix) if self.keep else False
        if is_image is False or (is_image and self.has_image):
            return bytes
        limit = None if is_image else self.texts_left
        try:
            content = read_member(tar, member, limit)
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
    """A file object of a tar's uncompressed bytes, with limits on its size and on headers."""

    def __init__(self, path: str):
        self.file, self.is_compressed = _unpacked(path)
        limit = max(MIN_TAR_BYTES, MAX_TAR_RATIO.value * os.path.getsize(path))
        self.end = limit if self.is_compressed else None
        self.left: int | None = None  # while headers of a member are read: bytes that may still be read

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
                f"it unpacks to more than {self.end:,} bytes, over {MAX_TAR_RATIO.value:,} times its size; "
                f"to score it anyway, unpack it first ({MAX_TAR_RATIO.advice})"
            )


def _unpacked(path: str) -> tuple[IO[bytes], bool]:
    """Open a tar with the compression shown by its first bytes; return (file, whether it is compressed)."""
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
    """The headers of a member. tarfile treats an invalid header as the end of the tar; this class raises."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Header:
        start, file = tar.offset, _bounded(tar)
        file.left = MAX_HEADER_BYTES
        try:
            member = super().fromtarfile(tar)
        # Unknown to typeshed. They mean the end of the file and a block of zeros.
        except (tarfile.EmptyHeaderError, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"invalid header at byte {start}: {error}") from error
        finally:
            file.left = None
        if member.size < 0 or tar.offset <= start:  # tarfile would loop forever
            raise tarfile.ReadError(f"the size of a file at byte {start} is negative")
        return member
