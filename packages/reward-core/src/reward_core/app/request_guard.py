"""Accept only requests to the page's own addresses, sent by the page itself or by programs.

Other websites can make a visitor's browser send requests to this machine. A site can let its name resolve to
127.0.0.1 (DNS rebinding); then the Host header has that name. Or it can post to http://127.0.0.1:7860; then
the browser sends its origin in Origin and Sec-Fetch-Site. Programs such as gradio_client send neither.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from ..errors import InputError
from ..printing.escapes import printable

WILDCARDS = ("0.0.0.0", "::", "")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\\?#@\[\],;]+)(?::(\d{1,5}))?")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]+")
_DEFAULT_PORTS = ("80", "443")
_API = "/gradio_api"
# Routes of gradio that this page does not use; they write files without a limit, or start programs.
_UNUSED = (
    "deep_link",
    "process_recording",
    "profiling",
    "proxy=",
    "run-history",
    "undo-vibe-edit",
    "vibe-",
)


class AllowedHosts:
    """The host names and addresses at which the page may be requested.

    Args:
        host: address that the server listens on. If it is a wildcard for all addresses of the machine, the
            machine's name and all IP addresses are allowed (DNS rebinding needs a name).
        extra: other names, such as that of a proxy; pages of these hosts may also send requests.

    Raises:
        InputError: an extra name is not a valid host name.
    """

    def __init__(self, host: str, extra: Iterable[str] = ()):
        self.names = {"localhost", "127.0.0.1", "::1", _plain(host)} - {""}
        self.any_address = _plain(host) in WILDCARDS
        if self.any_address:
            machine = socket.gethostname().lower()
            self.names |= {machine, f"{machine}.local"}
        self.trusted: set[str] = set()
        for name in extra:
            self.add(name)

    def add(self, name: str) -> None:
        """Allow another name."""
        plain = _plain(name)
        if not _NAME.fullmatch(plain):
            raise InputError(
                f"Cannot allow the host {name!r}: it is not the name or address of a host. Give it without "
                "scheme, port and path, such as images.example.com."
            )
        self.trusted.add(plain)

    def allows(self, host: str) -> bool:
        """Return whether a host name, without its port, is allowed."""
        return host in self.names or host in self.trusted or (self.any_address and _is_address(host))


class RequestGuard:
    """ASGI middleware that refuses other hosts (421), other pages (403) and unused routes (404)."""

    def __init__(self, app, hosts: AllowedHosts):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope, receive, send):
        refused = _refusal(scope, self.hosts) if scope["type"] in ("http", "websocket") else None
        if refused is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # before accepting: the response is 403
        else:
            await send_text(send, *refused)


async def send_text(send, status: int, text: str) -> None:
    """Send a response with a line of text."""
    content = f"{text}\n".encode("utf-8", "backslashreplace")
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(content)).encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"connection", b"close"),  # the rest of the request's body is not read
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _refusal(scope, hosts: AllowedHosts) -> tuple[int, str] | None:
    """Return (status, reason) if a request is refused, else None."""
    given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    host = _split(given[0]) if len(given) == 1 else None
    if host is None:
        return 400, "Cannot answer this request: it has no Host header, several, or a malformed one."
    if not hosts.allows(host[0]):
        return 421, (
            f"Cannot answer a request for the host '{printable(host[0]):.200}': this page is served under "
            "other names. If the name is right, start reward-core app with --allow-host and this name."
        )
    if _is_from_elsewhere(scope, host, hosts):
        return 403, "Cannot answer this request: it comes from a page of another site. Open this page itself."
    if scope["path"].removeprefix(_API).lstrip("/").startswith(_UNUSED):
        return 404, "Cannot answer this request: the page does not offer this."
    return None


def _is_from_elsewhere(scope, host: tuple[str, str], hosts: AllowedHosts) -> bool:
    """Return whether a browser says that another site's page sent the request."""
    headers: dict[bytes, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, []).append(value.decode("latin-1"))
    origins, sites = headers.get(b"origin", []), headers.get(b"sec-fetch-site", [])
    if len(origins) > 1 or len(sites) > 1:
        return True
    site = sites[0].strip().lower() if sites else ""
    if origins and origins[0].strip().lower() != "null":
        origin = _origin(origins[0])
        return origin is None or not (origin == host or origin[0] in hosts.trusted)
    if origins:  # a page without an origin, such as a local file; or ours, which sends no referrer
        return site != "same-origin"
    if site not in ("cross-site", "same-site"):
        return False
    # A link to the page may stand on any site.
    mode = headers.get(b"sec-fetch-mode", [""])[0].strip().lower()
    is_link = mode == "navigate" and scope.get("method") in ("GET", "HEAD")
    return not is_link or scope["path"].startswith(_API)


def _origin(text: str) -> tuple[str, str] | None:
    try:
        parts = urlsplit(text.strip())
    except ValueError:
        return None
    return _split(parts.netloc) if parts.scheme in ("http", "https") else None


def _split(text: str) -> tuple[str, str] | None:
    """Return (host, port) of a Host header; "" for a default port, None for a malformed one."""
    match = _HOST.fullmatch(text.strip())
    if match is None:
        return None
    port = match[2] or ""
    return _plain(match[1]), "" if port in _DEFAULT_PORTS else port


def _plain(host: str) -> str:
    """Return a host in lower case, without the brackets of IPv6 and without a final dot."""
    return host.strip().lower().removeprefix("[").removesuffix("]").removesuffix(".")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
