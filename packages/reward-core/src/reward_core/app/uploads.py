"""The folder of uploaded files: its own, of bounded size, and removed when the server ends."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from ..files.limits import (
    MAX_REQUEST_BYTES,
    MAX_UPLOAD_FOLDER_BYTES,
    MAX_UPLOAD_REQUEST_BYTES,
    Limit,
)
from .request_guard import send_text

VARIABLE = "GRADIO_TEMP_DIR"  # where gradio puts uploads, read when a page is built
SMALLEST = 2**16  # bytes that a file counts at least, so that there are not too many either
_current: tuple[Path, str | None] | None = None  # the folder, and what VARIABLE was before


def upload_folder() -> Path:
    """The folder into which gradio puts uploads, made at the first call; nothing else is in it."""
    global _current
    if _current is None:
        before = os.environ.get(VARIABLE)
        if before:
            Path(before).mkdir(parents=True, exist_ok=True)
        _current = Path(tempfile.mkdtemp(prefix="reward-core-app-", dir=before or None)).resolve(), before
        os.environ[VARIABLE] = str(_current[0])
        atexit.register(remove_upload_folder)
    return _current[0]


def remove_upload_folder() -> None:
    """Remove the folder and all uploads, if there is one."""
    global _current
    if _current is None:
        return
    folder, before = _current
    _current = None
    if before is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = before
    shutil.rmtree(folder, ignore_errors=True)
    atexit.unregister(remove_upload_folder)


class UploadFolder:
    """Keeps the files in a folder below a number of bytes.

    gradio writes an upload that arrives to ``FOLDER/tmpNAME``, and moves it to ``FOLDER/DIGEST/NAME``.
    """

    def __init__(self, folder: Path, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes
        self.arriving = 0  # bytes of the requests that are being read
        self.requests = 0

    def make_room(self, wanted: int) -> bool:
        """Delete the oldest uploads until there is room for more bytes. Returns whether there is."""
        files = self._files()
        total = sum(size for _, size, _ in files) + self.arriving
        for _, size, file in sorted(files):
            if total + wanted <= self.max_bytes:
                return True
            if self.requests and file.parent == self.folder:  # it may be arriving
                continue
            self._delete(file)
            total -= size
        return total + wanted <= self.max_bytes

    def begin(self, wanted: int) -> None:
        self.arriving, self.requests = self.arriving + wanted, self.requests + 1

    def end(self, wanted: int) -> None:
        self.arriving, self.requests = self.arriving - wanted, self.requests - 1

    def delete_partial(self) -> None:
        """Delete what uploads that were broken off have left."""
        for _, _, file in self._files():
            if file.parent == self.folder and not self.requests:
                self._delete(file)

    def _files(self) -> list[tuple[float, int, Path]]:
        """(time, bytes, path) of each file."""
        found = []
        for folder, _, names in os.walk(self.folder):
            for name in names:
                file = Path(folder, name)
                with suppress(FileNotFoundError):
                    state = file.lstat()
                    found.append((state.st_mtime, max(SMALLEST, state.st_size), file))
        return found

    def _delete(self, file: Path) -> None:
        with suppress(OSError):
            file.unlink(missing_ok=True)
            if file.parent != self.folder:
                file.parent.rmdir()


class BoundedRequests:
    """ASGI middleware that refuses requests with too large a body (413), and uploads without room (507)."""

    def __init__(self, app, folder: UploadFolder):
        self.app, self.folder = app, folder

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_upload = _has_files(scope)
        limit = MAX_UPLOAD_REQUEST_BYTES if is_upload else MAX_REQUEST_BYTES
        length = _content_length(scope)
        if length is not None and length > limit.value:
            await send_text(send, 413, _too_large(limit))
        elif is_upload:
            # Without a length, as much as one request may bring is set aside.
            await self._upload(scope, receive, send, limit.value if length is None else length)
        else:
            await self._bounded(scope, receive, send, limit)

    async def _upload(self, scope, receive, send, wanted: int) -> None:
        folder = self.folder
        folder.begin(wanted)
        try:
            if await asyncio.to_thread(folder.make_room, 0):
                await self._bounded(scope, receive, send, MAX_UPLOAD_REQUEST_BYTES)
            else:
                await send_text(
                    send,
                    507,
                    f"Cannot take this upload: uploads have {folder.max_bytes:,} bytes at most in all. Try "
                    f"again later, or upload fewer files at once ({MAX_UPLOAD_FOLDER_BYTES.advice}).",
                )
        finally:
            folder.end(wanted)
            await asyncio.to_thread(folder.delete_partial)

    async def _bounded(self, scope, receive, send, limit: Limit) -> None:
        """Run the app on a body that is counted while it is read."""
        size, started = 0, False

        async def counted():
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit.value:
                raise _TooLargeError
            return message

        async def noted(message):
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except _TooLargeError:
            if started:
                raise
            await send_text(send, 413, _too_large(limit))


class _TooLargeError(Exception):
    """A request's body is larger than its limit."""


def _has_files(scope) -> bool:
    """Return whether a request may bring files: gradio takes them from forms alone."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    is_upload = scope["path"].rstrip("/").endswith("/upload")
    return scope["method"] == "POST" and (is_upload or b"multipart/" in kind.lower())


def _content_length(scope) -> int | None:
    """The Content-Length; None without one. The server refuses what is no number."""
    found = next((value for name, value in scope["headers"] if name == b"content-length"), None)
    return int(found) if found is not None and found.isdigit() else None


def _too_large(limit: Limit) -> str:
    return (
        f"Cannot take this request: it has more than {limit.value:,} bytes. Upload fewer or smaller files at "
        f"once ({limit.advice})."
    )
