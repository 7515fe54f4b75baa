"""``reward-core convert``: convert the original's .pt file to a folder that loads offline."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..printing.escapes import printable


def add_to(commands: argparse._SubParsersAction) -> None:
    convert = commands.add_parser(
        "convert", help="convert the original's .pt file to a folder that loads offline"
    )
    add_convert_arguments(convert)


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "state_dict", type=Path, metavar="STATE_DICT", help="file such as ImageReward.pt or model_large.pth"
    )
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER", help="folder to write")
    parser.add_argument(
        "--config",
        type=Path,
        help="config.json with the sizes (default: the file beside STATE_DICT, or that of ImageReward-v1.0)",
    )
    parser.add_argument(
        "--vocab", type=Path, help="vocab.txt (default: the file beside STATE_DICT, or BERT's from the hub)"
    )
    parser.set_defaults(run=run_convert)


def run_convert(args: argparse.Namespace) -> int:
    from ..models.convert import convert_checkpoint

    model = convert_checkpoint(args.state_dict, args.out, args.config, args.vocab)
    kind, parameters = type(model).__name__, sum(p.numel() for p in model.parameters())
    line = f"{args.out}: {kind}, {parameters:,} parameters; load it with RM.load({str(args.out)!r})"
    print(printable(line))
    return 0
