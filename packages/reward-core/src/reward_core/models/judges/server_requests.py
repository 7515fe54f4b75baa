"""JSON requests to a server, with timeouts and retries."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from email.message import Message
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ...errors import InputError, RequestError, ServerError
from ...files.limits import MB

API_KEY_VARIABLE = "REWARD_CORE_SERVER_API_KEY"
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT = 60.0  # seconds before a retry, also if the server asks for more
MAX_RESPONSE_BYTES = 16 * MB
SHOWN = 300  # characters of the server's message in errors


class _NoRedirects(HTTPRedirectHandler):
    """A redirect would send the API key to another server."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


class ServerRequests:
    """Requests to one server. Threads may share it.

    Args:
        url: base URL of the API, such as http://host:8000/v1. Without a path, /v1 is added.
        timeout: longest time for one request, in seconds.
        retries: how often a request is repeated after a timeout, an overload (429) or a fault of the server.
        backoff: seconds before the first retry; doubled for each further one.
        api_key_variable: environment variable with the API key; without it, none is sent.

    Raises:
        InputError: an invalid URL, or one with a password.
    """

    def __init__(
        self,
        url: str,
        timeout: float = 120.0,
        retries: int = 4,
        backoff: float = 0.5,
        api_key_variable: str = API_KEY_VARIABLE,
    ):
        self.url, self.timeout, self.retries, self.backoff = _checked_url(url), timeout, retries, backoff
        self.api_key_variable = api_key_variable
        self._opener = build_opener(_NoRedirects)
        self._opener.addheaders = [("User-Agent", "reward-core")]

    def get(self, path: str) -> Any:
        """Return the JSON of an answer, without retries. Raises ServerError."""
        return self._send(Request(f"{self.url}/{path}", headers=self._headers()))

    def post(self, path: str, content: Any, stop: threading.Event) -> Any:
        """Send JSON and return the JSON of the answer.

        Args:
            path: path below the base URL.
            content: values for JSON.
            stop: ends the wait before a retry.

        Raises:
            RequestError: the server refused this request, or failed at it until the last retry.
            ServerError: the server cannot be reached, or refuses all requests.
        """
        data = json.dumps(content).encode()
        for attempt in range(self.retries + 1):
            request = Request(f"{self.url}/{path}", data, self._headers(), method="POST")
            try:
                return self._send(request)
            except TransientError as retried:
                if attempt == self.retries or stop.is_set():
                    raise retried.error from retried.__cause__
                wait = self.backoff * 2**attempt * random.uniform(0.5, 1.0)
                stop.wait(min(LONGEST_WAIT, max(wait, retried.wait)))
        raise AssertionError("the loop returns or raises")

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(self.api_key_variable, "").strip():
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def _send(self, request: Request) -> Any:
        try:
            with self._opener.open(request, timeout=self.timeout) as answer:
                text = _read(answer, time.monotonic() + self.timeout)
        except HTTPError as error:
            with error:
                raise self._http_error(error) from None
        except TimeoutError as error:
            raise self._timeout() from error
        except URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self._timeout() from error
            raise TransientError(self._unreachable(error.reason)) from error
        except (HTTPException, OSError) as error:
            problem = str(error) or type(error).__name__
            raise TransientError(
                RequestError(f"Cannot get an answer from the server {self.url}: {problem}.")
            ) from error
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ServerError(
                f"Cannot use the server {self.url}: it did not answer with JSON. The URL is that of an "
                "OpenAI-compatible API and usually ends in /v1."
            ) from error

    def _timeout(self) -> TransientError:
        return TransientError(
            RequestError(
                f"Cannot get an answer from the server {self.url}: none came within {self.timeout:g} "
                "seconds. Set a longer timeout or fewer requests at once."
            )
        )

    def _unreachable(self, cause: object) -> ServerError:
        return ServerError(
            f"Cannot reach the server {self.url}: {cause}. Start it (such as `vllm serve MODEL`), and check "
            "host and port."
        )

    def _http_error(self, error: HTTPError) -> Exception:
        message = self._message(error)
        failure = RequestError(
            f"Cannot get an answer from the server {self.url}: status {error.code}{message}.", error.code
        )
        if error.code in RETRIED:
            return TransientError(failure, _retry_after(error.headers))
        if error.code in (401, 403):
            advice = f"Put the API key into the environment variable {self.api_key_variable}."
            return ServerError(
                f"Cannot use the server {self.url}: status {error.code}{message}. {advice}", error.code
            )
        if error.code in (404, 405) or 300 <= error.code < 400:
            advice = "The URL is that of an OpenAI-compatible API and usually ends in /v1."
            return ServerError(
                f"Cannot use the server {self.url}: status {error.code}{message}. {advice}", error.code
            )
        return failure

    def _message(self, error: HTTPError) -> str:
        """Return the server's message, without the API key; empty if there is none."""
        try:
            text = error.read(MAX_RESPONSE_BYTES).decode("utf-8", "replace").strip()
        except (OSError, HTTPException):
            return ""
        try:
            content = json.loads(text)
            content = content.get("error", content)
            text = str(content.get("message", content) if isinstance(content, dict) else content)
        except (ValueError, AttributeError, RecursionError):
            pass
        if key := os.environ.get(self.api_key_variable, "").strip():
            text = text.replace(key, "***")
        return f" ({text[:SHOWN].rstrip('.')})" if text else ""


class TransientError(Exception):
    """A failure that may pass. ``wait``: seconds that the server asks to wait."""

    def __init__(self, error: ServerError, wait: float = 0.0):
        super().__init__(str(error))
        self.error, self.wait = error, wait


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment:
        raise InputError(
            f"Cannot use the server {url!r:.200}: it is not a URL such as http://localhost:8000/v1. "
            "Correct it."
        )
    if parts.username is not None or parts.password is not None:
        raise InputError(
            "Cannot use a server URL with a user name or password: it would be stored and printed. Put the "
            f"API key into the environment variable {API_KEY_VARIABLE}."
        )
    path = parts.path.rstrip("/") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _read(answer: Any, deadline: float) -> bytes:
    """Return the content of an answer. A server may also send it slowly, or without an end."""
    pieces: list[bytes] = []
    size = 0
    while piece := answer.read1(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if time.monotonic() > deadline:
            raise TimeoutError
        if size > MAX_RESPONSE_BYTES:
            raise HTTPException(f"it answered with more than {MAX_RESPONSE_BYTES:,} bytes")
    return b"".join(pieces)


def _retry_after(headers: Message) -> float:
    try:
        return max(0.0, float(headers.get("Retry-After", "0")))
    except ValueError:  # a date
        return 0.0
