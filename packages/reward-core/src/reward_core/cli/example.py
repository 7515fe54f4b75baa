"""``reward-core example``: compare the scores of the original's four images with the published ones."""

from __future__ import annotations

import argparse

from .common import batch, load_model, scoring_options


def add_to(commands: argparse._SubParsersAction) -> None:
    example = commands.add_parser(
        "example",
        parents=[scoring_options(several=False)],
        help="compare the scores of the original's four images with the published ones",
    )
    example.add_argument(
        "--images",
        metavar="DIR_OR_URL",
        help="folder or address of the images (default: the original's repository)",
    )
    example.set_defaults(run=run_example)


def run_example(args: argparse.Namespace) -> int:
    from ..demo.published_example import ADDRESS, PROMPT, PUBLISHED, example_images
    from ..printing.terminal import PlainTable, print_table

    images = example_images(args.images or ADDRESS)
    _, rewards = load_model(args).inference_rank(PROMPT, images, **batch(args))
    table = PlainTable("image", f"score ({args.model})", "published (ImageReward-v1.0)", title=PROMPT)
    for image, reward, published in zip(images, rewards, PUBLISHED):
        table.add_row(image.name, f"{reward:.2f}", f"{published:.2f}")
    print_table(table)
    return 0
