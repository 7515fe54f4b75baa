"""``reward-core app``: rank images on a page in the browser."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..printing.command_line import printable_output
from .common import given_models, judge_choices, positive, scoring_options

logger = logging.getLogger(__name__)
if TYPE_CHECKING:
    from ..app.serve import Limits


def add_to(commands: argparse._SubParsersAction) -> None:
    app = commands.add_parser(
        "app", parents=[scoring_options()], help="rank images on a page in the browser (extra: app)"
    )
    app.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    app.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="also answer requests for this host name, such as that of a proxy; repeatable",
    )
    app.add_argument("--port", type=port, help="port to listen on (default: the first free port from 7860)")
    app.add_argument(
        "--share", action="store_true", help="also serve a public address through gradio's tunnel, for a week"
    )
    app.add_argument("--open", action="store_true", help="open the page in the browser")
    app.add_argument(
        "--max-pictures",
        type=positive,
        default=60,
        metavar="N",
        help="images ranked at once (default: %(default)s)",
    )
    app.add_argument(
        "--max-mb",
        type=positive,
        default=32,
        metavar="N",
        help="largest file, in MB (default: %(default)s)",
    )
    app.add_argument(
        "--queue",
        type=positive,
        default=16,
        metavar="N",
        help="requests that may wait (default: %(default)s)",
    )
    app.set_defaults(run=run_app)


def run_app(args: argparse.Namespace) -> int:
    from ..app.serve import Limits, require_gradio
    from ..app.uploads import remove_upload_folder
    from ..errors import PromptTruncatedWarning

    require_gradio()  # before a model is loaded
    from ..app import Models, build_page
    from ..models.load_options import JudgeOptions

    sources = list(dict.fromkeys(given_models(args)))
    # Others who reach the page must not make this machine download models at will.
    only = args.share or not is_loopback(args.host)
    models = Models(
        sources,
        only=only,
        files=args.files,
        device=args.device,
        precision=args.precision,
        batch_size=args.batch_size,
        judge=JudgeOptions(**judge_choices(args)),
    )
    for source in sources:
        logger.info("loading %s", source)
        _ = models[models.name_of(source)]  # fails now, not on the page
    warnings.simplefilter("ignore", PromptTruncatedWarning)  # the page shows it to its visitor
    limits = Limits(images=args.max_pictures, megabytes=args.max_mb, queue=args.queue)
    others = [models.name_of(source) for source in sources[1:]]
    # gradio prints what visitors send, in the tracebacks of their errors.
    with _terminated_by_signals() as terminated, printable_output():
        try:
            code = _serve(build_page(models, others, limits), args, limits)
        except KeyboardInterrupt:
            if not terminated:
                raise
            code = 0
        finally:
            remove_upload_folder()
    return 128 + terminated[0] if terminated else code


def _serve(page: Any, args: argparse.Namespace, limits: Limits) -> int:
    from ..app.serve import serve

    _, address, shared = serve(
        page,
        host=args.host,
        port=args.port,
        share=args.share,
        limits=limits,
        allowed_hosts=args.allow_host,
        inbrowser=args.open,
    )
    logger.info("%s", address + (f" and, for everybody, {shared}" if shared else ""))
    if args.share and not shared:
        logger.warning("Cannot get a public address. The page runs on this machine only.")
    try:
        page.block_thread()
    finally:
        page.close(verbose=False)
    return 0


@contextmanager
def _terminated_by_signals() -> Iterator[list[int]]:
    """Stop the server on SIGTERM and SIGHUP as on Ctrl-C; yield a list that receives the signal's number."""
    received: list[int] = []

    def end(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        names = []
    before = {name: signal.signal(getattr(signal, name), end) for name in names}
    try:
        yield received
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 65535, got {text!r}")
    return int(text)


def is_loopback(host: str) -> bool:
    """Return whether a server on this host can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
