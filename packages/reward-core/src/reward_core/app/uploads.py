"""The folder of uploaded files: separate, limited in size, and removed when the server stops."""

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

VARIABLE = "GRADIO_TEMP_DIR"  # gradio's folder of uploads; gradio reads it when a page is built
SMALLEST = 2**16  # minimum bytes to count for a file, which also limits the number of files
_current: tuple[Path, str | None] | None = None  # the folder, and the previous value of VARIABLE


def upload_folder() -> Path:
    """Return gradio's folder of uploads; the first call creates it and sets VARIABLE."""
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
    """Remove the folder with all uploads if it exists, and restore VARIABLE."""
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
    """Limit the total size of the files in a folder.

    gradio writes an incoming upload to ``FOLDER/tmpNAME`` and then moves it to ``FOLDER/DIGEST/NAME``.
    """

    def __init__(self, folder: Path, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes
        self.arriving = 0  # bytes reserved for requests that are being read
        self.requests = 0

    def make_room(self, wanted: int) -> bool:
        """Delete the oldest uploads until ``wanted`` more bytes fit; return whether they fit."""
        files = self._files()
        total = sum(size for _, size, _ in files) + self.arriving
        for _, size, file in sorted(files):
            if total + wanted <= self.max_bytes:
                return True
            if self.requests and file.parent == self.folder:  # may be an incoming upload
                continue
            self._delete(file)
            total -= size
        return total + wanted <= self.max_bytes

    def begin(self, wanted: int) -> None:
        """Reserve bytes for a request."""
        self.arriving, self.requests = self.arriving + wanted, self.requests + 1

    def end(self, wanted: int) -> None:
        """Release the bytes of a request."""
        self.arriving, self.requests = self.arriving - wanted, self.requests - 1

    def delete_partial(self) -> None:
        """Delete the files of interrupted uploads."""
        for _, _, file in self._files():
            if file.parent == self.folder and not self.requests:
                self._delete(file)

    def _files(self) -> list[tuple[float, int, Path]]:
        """Return (modification time, bytes, path) of each file."""
        files = []
        for folder, _, names in os.walk(self.folder):
            for name in names:
                file = Path(folder, name)
                with suppress(FileNotFoundError):
                    state = file.lstat()
                    files.append((state.st_mtime, max(SMALLEST, state.st_size), file))
        return files

    def _delete(self, file: Path) -> None:
        with suppress(OSError):
            file.unlink(missing_ok=True)
            if file.parent != self.folder:
                file.parent.rmdir()


class BoundedRequests:
    """ASGI middleware that refuses too large requests (413), and uploads if the folder is full (507)."""

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
            # If the length is unknown, reserve the maximum.
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
                    "Cannot accept this upload: all uploads together are limited to "
                    f"{folder.max_bytes:,} bytes. Try again later, or upload fewer files at once "
                    f"({MAX_UPLOAD_FOLDER_BYTES.advice}).",
                )
        finally:
            folder.end(wanted)
            await asyncio.to_thread(folder.delete_partial)

    async def _bounded(self, scope, receive, send, limit: Limit) -> None:
        """Run the app and refuse the request once its body exceeds the limit."""
        size, started = 0, False

        async def counted():
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit.value:
                raise _TooLargeError
            return message

        async def track_start(message):
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, counted, track_start)
        except _TooLargeError:
            if started:
                raise
            await send_text(send, 413, _too_large(limit))


class _TooLargeError(Exception):
    """A request's body is larger than its limit."""


def _has_files(scope) -> bool:
    """Return whether a request may contain files, which gradio accepts only in forms."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    is_upload = scope["path"].rstrip("/").endswith("/upload")
    return scope["method"] == "POST" and (is_upload or b"multipart/" in kind.lower())


def _content_length(scope) -> int | None:
    """Return the Content-Length, or None if it is missing. The server refuses invalid values."""
    value = next((value for name, value in scope["headers"] if name == b"content-length"), None)
    return int(value) if value is not None and value.isdigit() else None


def _too_large(limit: Limit) -> str:
    return (
        f"Cannot accept this request: it has more than {limit.value:,} bytes. Upload fewer or smaller files "
        f"at once ({limit.advice})."
    )
