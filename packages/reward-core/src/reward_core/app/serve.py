"""Starts the page's server: on this machine alone, and with nothing fetched from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import InputError
from ..files.limits import (
    MAX_REQUEST_BYTES,
    MAX_UPLOAD_FILE_BYTES,
    MAX_UPLOAD_FOLDER_BYTES,
    MAX_UPLOAD_REQUEST_BYTES,
)
from .request_guard import AllowedHosts, RequestGuard
from .uploads import BoundedRequests, UploadFolder, upload_folder

# The browser itself then refuses whatever gradio may want from another host. Gradio's own code needs inline
# scripts and eval, its downloads blob:.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; base-uri 'self'; form-action 'self'"
)


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for at once, and how many may wait.

    images, prompts: a ranking has this many at most; the rest is reported and left out.
    megabytes: of 2^20 bytes; a larger file is reported and left out. One of more than eight times as much,
    or than MAX_UPLOAD_FILE_BYTES, is not taken from the browser at all.
    queue: visitors who wait; one more is asked to come back.
    """

    images: int = 60
    prompts: int = 20
    megabytes: float = 32
    queue: int = 16

    @property
    def upload_bytes(self) -> int:
        """Bytes of a file from which on it is not taken from the browser.

        Raises:
            InputError: MAX_UPLOAD_FILE_BYTES is below ``megabytes``.
        """
        most = MAX_UPLOAD_FILE_BYTES.value
        if most < self.megabytes * 2**20:
            raise InputError(
                f"Cannot rank files of {self.megabytes:g} MB: at most {most:,} bytes of a file are uploaded. "
                f"Choose fewer MB, or another limit ({MAX_UPLOAD_FILE_BYTES.advice})."
            )
        return min(most, int(8 * self.megabytes * 2**20))


class ContentPolicy:
    """ASGI middleware that adds POLICY to every answer."""

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
    """gradio, told not to phone home; an InputError that names the extra where it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported and later
    try:
        import gradio
    except ImportError as error:
        raise InputError(
            "Cannot start the page: gradio is not installed. Run `pip install gradio`."
        ) from error
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
    """Serve what ``build_page`` gave. Returns what gradio's ``launch`` does: (app, address, shared address).

    Args:
        host: address to listen on. port: None takes the first free one from 7860.
        share: also through a public address that gradio's tunnel gives. That, and only that, leaves
            this machine.
        allowed_hosts: other names under which the page is reached, such as a proxy's (see AllowedHosts).

    Raises:
        InputError: a port that is taken, a limit that cannot be used.
    """
    hosts = AllowedHosts(host, allowed_hosts)
    uploads = UploadFolder(upload_folder(), MAX_UPLOAD_FOLDER_BYTES.value)
    _ = (
        MAX_UPLOAD_REQUEST_BYTES.value,
        MAX_REQUEST_BYTES.value,
    )  # a wrong one is reported before visitors come
    gradio = require_gradio()
    from starlette.middleware import Middleware

    page.queue(max_size=limits.queue, default_concurrency_limit=1, api_open=False)

    @asynccontextmanager
    async def guarded(app):
        # Outside of all that gradio adds, which would answer some requests of other sites by itself.
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
        raise InputError(f"cannot listen on {host}:{port or '7860-7959'}: {error}") from error
    _, _, shared = served
    if shared and (name := urlsplit(shared).hostname):
        hosts.add(name)
    return served


def theme(gradio):
    """Gradio's default looks with the system's own fonts and this page's accent."""
    return gradio.themes.Default(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=("ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    )
