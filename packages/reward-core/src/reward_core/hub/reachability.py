"""Whether the hub can be reached, found out in seconds: its client alone retries for half a minute."""

from __future__ import annotations

import time

PAUSE = 0.5  # seconds before the one retry
TIMEOUT = 5.0  # seconds for each of the two requests
REMEMBERED = 30.0  # seconds for which a failure counts; an answer counts until the process ends

_answers: dict[str, tuple[float, Exception | None]] = {}  # endpoint -> (when, what went wrong)


def hub_failure() -> Exception | None:
    """Return why the hub cannot be reached, or None if it answers.

    One request, and one retry after PAUSE, through the hub client's own session, so that proxies and
    certificates are those of a download. In offline mode no request is made.
    """
    from huggingface_hub import constants

    endpoint = constants.ENDPOINT
    when, failure = _answers.get(endpoint, (0.0, None))
    if endpoint not in _answers or (failure is not None and time.monotonic() - when > REMEMBERED):
        failure = _ask(endpoint)
        _drop_frames(failure)
        _answers[endpoint] = time.monotonic(), failure
    return failure


def _ask(endpoint: str) -> Exception | None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    failure = None
    for pause in (0.0, PAUSE):
        time.sleep(pause)
        try:
            _session().head(endpoint, timeout=TIMEOUT)
        except OfflineModeIsEnabled as error:
            return error
        except Exception as error:  # of whichever HTTP library the client uses
            failure = error
        else:
            return None  # any answer will do
    return failure


def _drop_frames(failure: BaseException | None) -> None:
    """Remove the tracebacks: their frames would keep everything in memory that the callers hold."""
    seen: set[int] = set()
    errors = [failure]
    while errors:
        error = errors.pop()
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            error.__traceback__ = None
            errors += [error.__cause__, error.__context__]


def _session():
    try:
        from huggingface_hub import get_session
    except ImportError:  # before huggingface_hub 1.0
        from huggingface_hub.utils import get_session
    return get_session()
