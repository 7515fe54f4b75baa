"""Serve the page locally, without requests to other hosts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import InputError, not_installed
from ..files.limits import (
    MAX_REQUEST_BYTES,
    MAX_UPLOAD_FILE_BYTES,
    MAX_UPLOAD_FOLDER_BYTES,
    MAX_UPLOAD_REQUEST_BYTES,
)
from .request_guard import AllowedHosts, RequestGuard
from .uploads import BoundedRequests, UploadFolder, upload_folder

# Makes the browser refuse requests of gradio to other hosts. Gradio's code needs inline scripts and eval, and
# its downloads need blob:.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; base-uri 'self'; form-action 'self'"
)


@dataclass(frozen=True)
class Limits:
    """The limits of a request, and of the queue of requests.

    Attributes:
        images, prompts: maximum numbers of images and prompts; the others are reported and left out.
        megabytes: maximum file size, in units of 2^20 bytes; larger files are reported and left out. Files
            of more than eight times that size, or of more than MAX_UPLOAD_FILE_BYTES, are not uploaded.
        queue: maximum number of waiting visitors; others are asked to come back later.
    """

    images: int = 60
    prompts: int = 20
    megabytes: float = 32
    queue: int = 16

    @property
    def upload_bytes(self) -> int:
        """Maximum size of an uploaded file, in bytes.

        Raises:
            InputError: MAX_UPLOAD_FILE_BYTES is below ``megabytes``.
        """
        limit = MAX_UPLOAD_FILE_BYTES.value
        if limit < self.megabytes * 2**20:
            raise InputError(
                f"Cannot rank files of {self.megabytes:g} MB: uploads are limited to {limit:,} bytes per "
                f"file. Choose fewer MB, or another limit ({MAX_UPLOAD_FILE_BYTES.advice})."
            )
        return min(limit, int(8 * self.megabytes * 2**20))


class ContentPolicy:
    """ASGI middleware that adds POLICY to every response."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, receive, send_with_policy)


def require_gradio() -> Any:
    """Return the module gradio with its analytics turned off; raise InputError if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read on import and later
    try:
        import gradio
    except ImportError as error:
        raise InputError(f"Cannot start the page: {not_installed('app', 'gradio')}") from error
    return gradio


def serve(
    page,
    *,
    host: str,
    port: int | None,
    share: bool,
    limits: Limits,
    allowed_hosts: Sequence[str] = (),
    **others: Any,
):
    """Serve the page of ``build_page``; return the result of gradio's ``launch``: (app, URL, shared URL).

    Args:
        page: the page.
        host: address to listen on.
        port: port to listen on; None uses the first free port from 7860.
        share: also serve through a public address of gradio's tunnel. Only this sends data to other
            machines.
        allowed_hosts: other host names of the page, such as that of a proxy (see ``AllowedHosts``).
        limits: limits of a request.
        others: passed to ``launch``.

    Raises:
        InputError: the port is in use, or a limit is invalid.
    """
    hosts = AllowedHosts(host, allowed_hosts)
    uploads = UploadFolder(upload_folder(), MAX_UPLOAD_FOLDER_BYTES.value)
    _ = (MAX_UPLOAD_REQUEST_BYTES.value, MAX_REQUEST_BYTES.value)  # report invalid values before serving
    gradio = require_gradio()
    from starlette.middleware import Middleware

    page.queue(max_size=limits.queue, default_concurrency_limit=1, api_open=False)

    @asynccontextmanager
    async def guarded(app):
        # Outside of all of gradio's middleware, which would answer some requests of other sites itself.
        app.middleware_stack = RequestGuard(app.middleware_stack, hosts)
        yield

    try:
        served = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            max_file_size=limits.upload_bytes,
            app_kwargs={
                "middleware": [Middleware(ContentPolicy), Middleware(BoundedRequests, folder=uploads)],
                "lifespan": guarded,
            },
            css_paths=[Path(__file__).with_name("style.css")],
            theme=theme(gradio),
            **others,
        )
    except OSError as error:
        reason = error if error.errno else "no free port"  # gradio's own error advises how to call gradio
        raise InputError(
            f"Cannot listen on {host}:{port or '7860-7959'}: {reason}. Choose another --port."
        ) from error
    _, _, shared = served
    if shared and (name := urlsplit(shared).hostname):
        hosts.add(name)
    return served


def theme(gradio):
    """Return gradio's default theme with system fonts and the colors of this page."""
    return gradio.themes.Default(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=("ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    )
