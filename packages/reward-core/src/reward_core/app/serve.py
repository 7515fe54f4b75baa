"""Starts the page's server: on this machine alone, and with nothing fetched from elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError

# The browser itself then refuses whatever gradio may want from another host. Gradio's own code needs inline
# scripts and eval, its downloads blob:.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; base-uri 'self'; form-action 'self'"
)


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for at once, and how many may wait.

    images, prompts: a ranking has this many at most; what is beyond is told and left out.
    megabytes: of 2^20 bytes; a larger file is told and left out. One of eight times as much is not
    taken from the browser at all.
    queue: visitors who wait; one more is told to come back.
    """

    images: int = 60
    prompts: int = 20
    megabytes: float = 32
    queue: int = 16


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
        raise InputError('the page needs gradio: pip install "reward-core[app]"') from error
    return gradio


def serve(page, *, host: str, port: int | None, share: bool, limits: Limits, **others: Any):
    """Serve what ``build_page`` gave. Returns what gradio's ``launch`` does: (app, address, shared address).

    Args:
        host: address to listen on. port: None takes the first free one from 7860.
        share: also through a public address that gradio's tunnel gives. That, and only that, leaves
            this machine.

    Raises:
        InputError: a port that is taken.
    """
    gradio = require_gradio()
    from starlette.middleware import Middleware

    page.queue(max_size=limits.queue, default_concurrency_limit=1, api_open=False)
    try:
        return page.launch(
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
            max_file_size=int(8 * limits.megabytes * 2**20),
            app_kwargs={"middleware": [Middleware(ContentPolicy)]},
            css_paths=[Path(__file__).with_name("style.css")],
            theme=theme(gradio),
            **others,
        )
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port or '7860-7959'}: {error}") from error


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
