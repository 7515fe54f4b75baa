"""Write a folder of ranked groups of ShapesBench for evaluation.

    python tools/make_shapes_eval.py --out held_out                # the standard held-out groups
    python tools/make_shapes_eval.py --seed 7 --out other          # other groups of the same kind
    reward-core evaluate tiny --data held_out

Prompts name combinations that are not in the training data. OUT gets `rankings.json` and the images. Equal
arguments give equal groups; the printed digest covers prompts, ranks and pixels.
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
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--seed", type=int, default=shapes.HELD_OUT.seed, help="default: %(default)s")
    parser.add_argument("--groups", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--split", choices=shapes.SPLITS, default="held_out", help="default: %(default)s")
    args = parser.parse_args()
    if args.groups < 1:
        parser.error(f"--groups must be at least 1, got {args.groups}")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        parser.error(f"Cannot write to '{args.out}': not an empty folder.")

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
