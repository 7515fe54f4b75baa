"""``python -m reward_core.demo``: rank images of three prompts and show the true order beside.

The images come from ShapesBench, so their true utility is known: combinations of color, shape
and relation that the tiny model never saw in training, with all kinds of faults. The oracle reads it
off the pixels alone, as it would of a generated image.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from reward_core import load, shapes
from reward_core.demo.contact_sheet import contact_sheet
from reward_core.printing.command_line import CommandParser, run_command_line
from reward_core.printing.escapes import printable
from reward_core.printing.terminal import PlainTable, plain_console
from reward_core.training import pairwise_accuracy

PROMPTS = 3
IMAGES = 12


def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(prog="reward_core.demo", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--out", type=Path, default=Path("demo.png"), help="contact sheet (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="other images and prompts (default: %(default)s)")
    args = parser.parse_args(argv)
    if not args.out.absolute().parent.is_dir():
        parser.error(f"{args.out}: no such folder")
    return run_command_line("reward_core.demo", lambda: run_demo(args))


def run_demo(args: argparse.Namespace) -> int:
    """Rank the images, print a table for each prompt, and write the contact sheet."""
    console = plain_console()
    model = load("tiny", device="cpu")
    config = replace(shapes.HELD_OUT, images=(IMAGES, IMAGES))
    groups = list(shapes.make_groups(PROMPTS, config, split="held_out", start=args.seed * PROMPTS))
    sheet, right, oracle_right, total = [], 0, 0, 0
    for group in groups:
        images = [Image.fromarray(pixels) for pixels in group.images]
        ranks, rewards = model.inference_rank(group.prompt, images)
        order = sorted(range(IMAGES), key=ranks.__getitem__)
        table = PlainTable(
            "place",
            "picture",
            "score",
            "percentile",
            "true place",
            "oracle's",
            "true utility",
            "what is wrong",
        )
        table.title = printable(group.prompt)
        read = shapes.oracle_batch(list(group.images), [group.scene] * IMAGES)
        oracle_ranks = shapes.rank([truth.utility for truth in read], config.tie_width)
        for i in order:
            truth = group.truths[i].utility
            faults = ", ".join(fault.kind.replace("_", " ") for fault in group.faults[i])
            numbers = f"{ranks[i]}", f"{i + 1}", f"{rewards[i]:.2f}", f"{model.percentile(rewards[i]):.0f}"
            table.add_row(
                *numbers, f"{group.ranking[i]}", f"{oracle_ranks[i]}", f"{truth:.2f}", faults or "-"
            )
        console.print(table)
        agreed, pairs = pairwise_accuracy(torch.tensor(rewards), group.ranking)
        right, total = right + agreed, total + pairs
        agreed, _ = pairwise_accuracy(torch.tensor([truth.utility for truth in read]), group.ranking)
        oracle_right += agreed
        captions = [f"{rewards[i]:+.2f}\ntrue place {group.ranking[i]}" for i in order]
        sheet.append((group.prompt, [images[i] for i in order], captions))
    contact_sheet(sheet).save(args.out)
    console.print(f"{right} of {total} comparisons as in truth ({right / total:.0%})")
    console.print(f"the oracle, from the pixels: {oracle_right} of {total} ({oracle_right / total:.0%})")
    if (quantiles := model.config.score_quantiles) is not None:
        console.print(printable(f"percentile: among {quantiles.source}"))
    console.print(printable(f"Contact sheet: {args.out}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
