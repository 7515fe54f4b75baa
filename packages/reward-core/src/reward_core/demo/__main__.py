"""``python -m reward_core.demo``: rank images of three prompts and compare with the true ranking.

The images are from ShapesBench, so their true utility is known. They show combinations of color, shape and
relation that were not in the training data of the tiny model, with all kinds of faults. The oracle estimates
the utility from the pixels only.
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
from reward_core.printing.terminal import PlainTable, plain_console, print_table
from reward_core.training import pairwise_accuracy

PROMPTS = 3
IMAGES = 12


def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(prog="python -m reward_core.demo", description=__doc__.split("\n\n")[0])
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
    sheet, correct, oracle_correct, total = [], 0, 0, 0
    for group in groups:
        images = [Image.fromarray(pixels) for pixels in group.images]
        ranks, rewards = model.inference_rank(group.prompt, images)
        order = sorted(range(IMAGES), key=ranks.__getitem__)
        table = PlainTable("rank", "score", "percentile", "true", "oracle", "utility", title=group.prompt)
        table.add_column("faults", wrap=True)
        read = shapes.oracle_batch(list(group.images), [group.scene] * IMAGES)
        oracle_ranks = shapes.rank([truth.utility for truth in read], config.tie_width)
        for i in order:
            truth = group.truths[i].utility
            faults = ", ".join(fault.kind.replace("_", " ") for fault in group.faults[i])
            predicted = f"{ranks[i]}", f"{rewards[i]:.2f}", f"{model.percentile(rewards[i]):.0f}"
            known = f"{group.ranking[i]}", f"{oracle_ranks[i]}", f"{truth:.2f}", faults or "-"
            table.add_row(*predicted, *known)
        print_table(table)
        agreed, pairs = pairwise_accuracy(torch.tensor(rewards), group.ranking)
        correct, total = correct + agreed, total + pairs
        agreed, _ = pairwise_accuracy(torch.tensor([truth.utility for truth in read]), group.ranking)
        oracle_correct += agreed
        captions = [f"{rewards[i]:+.2f}\ntrue rank {group.ranking[i]}" for i in order]
        sheet.append((group.prompt, [images[i] for i in order], captions))
    contact_sheet(sheet).save(args.out)
    console.print("true, oracle: ranks by the true utility and by the oracle's estimate of it")
    console.print(f"{correct} of {total} comparisons are right ({correct / total:.0%})")
    console.print(f"the oracle, from the pixels: {oracle_correct} of {total} ({oracle_correct / total:.0%})")
    if (quantiles := model.score_quantiles) is not None:
        console.print(printable(f"percentile: {quantiles.source}"))
    console.print(printable(f"Contact sheet: {args.out}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
