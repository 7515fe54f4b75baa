"""Remake images and numbers of the README and the docs.

    hatch run figures                 # everything that takes less than 5 minutes on a CPU; no network
    hatch run figures app held_out    # only these
    hatch run figures --list

Images go to docs/, numbers to docs/results/NAME.json with command, date, machine and versions. Pages quote
the numbers; tests/test_figures.py names each quote that differs from its JSON.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from figures import app_page, curves, measured, photographs, shapes_sheet, slow, suite, webui
from figures.record import environment, write_record

QUICK: dict[str, Callable[[], dict[str, Any]]] = {
    "app": app_page.make,
    "curves": curves.make,
    "demo": measured.demo,
    "held_out": measured.held_out,
    "loading": measured.loading,
    "oracle": shapes_sheet.make,
    "parity": measured.parity,
    "photographs": photographs.make,
    "suite": suite.make,
}
NAMED = {"webui": webui.make}  # made only when named: needs a running WebUI
# Longer than 5 minutes; made only when named. These write records of their own.
SLOW: dict[str, Callable[[], None]] = {
    "bulk": slow.bulk,
    "hacking": slow.hacking,
    "refl_demo": slow.refl_demo,
    "strategies": slow.strategies,
    "training": slow.training,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = {**QUICK, **NAMED, **SLOW}
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures to make (default: all quick ones)")
    parser.add_argument("--list", action="store_true", help="list the names")
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - names.keys()):
        parser.error(f"unknown figures: {', '.join(unknown)} (known: {', '.join(names)})")
    if args.list:
        for name, make in names.items():
            speed = "slow: " if name in SLOW else ""
            print(f"{name:12} {speed}{(make.__doc__ or '').splitlines()[0]}")
        return
    for name in args.names or QUICK:
        print(name, file=sys.stderr)
        if name in SLOW:
            SLOW[name]()
            continue
        before, started = environment(), time.perf_counter()
        numbers = {**QUICK, **NAMED}[name]()
        images = numbers.pop("images", [])
        seconds = round(time.perf_counter() - started, 1)
        print(write_record(name, numbers, before | {"seconds": seconds, "images": images}))


if __name__ == "__main__":
    main()
