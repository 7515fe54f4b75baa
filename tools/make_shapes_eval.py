"""Make a file of ranked groups to evaluate on, other than the one that models were tuned to.

    python tools/make_shapes_eval.py --out held_out                # the standard held-out groups
    python tools/make_shapes_eval.py --seed 7 --out other          # others like them
    reward-core evaluate tiny --data held_out

Prompts show combinations that training never sees. OUT is a folder with `rankings.json` and the images.
The same arguments give the same groups; the digest that is printed covers prompts, places and pixels.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from rich.progress import track

from reward_core import shapes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder, new or empty")
    parser.add_argument("--seed", type=int, default=shapes.HELD_OUT.seed, help="default: %(default)s")
    parser.add_argument("--groups", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--split", choices=shapes.SPLITS, default="held_out", help="default: %(default)s")
    args = parser.parse_args()
    if args.groups < 1:
        parser.error(f"--groups must be at least 1, got {args.groups}")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        parser.error(f"{args.out}: not an empty folder")

    config = replace(shapes.HELD_OUT, seed=args.seed)
    groups = shapes.make_groups(args.groups, config, args.split)
    digest = hashlib.sha256()
    rankings = shapes.write_groups(digested(track(groups, "groups", args.groups), digest), args.out)
    print(f"{rankings}: {args.groups} groups, sha256 {digest.hexdigest()}")


def digested(groups: Iterable[shapes.Group], digest) -> Iterator[shapes.Group]:
    for group in groups:
        digest.update(f"{group.prompt}\n{group.ranking}\n".encode() + group.images.tobytes())
        yield group


if __name__ == "__main__":
    main()
