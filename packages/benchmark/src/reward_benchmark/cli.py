"""``reward-benchmark``: tables of scorers and generators from the command line.

Exit code 0: done. 1: done, but some images could not be scored. 2: wrong usage, or data or a model that
cannot be loaded. 130 (SIGTERM: 143): interrupted; the same command resumes.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from reward_core.cli.common import judge_choices, judge_options, positive
from reward_core.errors import HubError, InputError
from reward_core.hub.reachability import hub_failure
from reward_core.printing.command_line import CommandParser, encode_anything, run_command_line
from reward_core.printing.escapes import printable
from reward_core.runs.sigterm import sigterm_interrupts

from .json_record import JsonObject

if TYPE_CHECKING:
    from .run import RunConfig

logger = logging.getLogger(__name__)
FAILED_SHOWN = 20  # failed images to list


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    encode_anything()  # the parser prints arguments
    args = build_parser().parse_args(argv)
    interrupted = "interrupted; what is finished is kept. Run the same command again to resume"
    with sigterm_interrupts() as terminated:
        code = run_command_line("reward-benchmark", lambda: args.run(args), interrupted=interrupted)
    return 143 if terminated and code == 130 else code


@cache
def build_parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = CommandParser(
        prog="reward-benchmark", description="Reproduce the paper's tables and compare scorers."
    )
    parser.add_argument("--version", action="version", version=f"reward-benchmark {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_generate(commands)
    _add_metrics(commands)
    _add_report(commands)
    return parser


def _add_report(commands) -> None:
    report = commands.add_parser(
        "report", help="print tables of finished runs or of the original's files, and write their pages"
    )
    report.add_argument(
        "path", type=Path, metavar="DIR", help="folder of runs, of one run, or of the original's results"
    )
    report.add_argument(
        "--html", action="store_true", help="also write report.html, a page with charts and images"
    )
    report.add_argument(
        "--rankings", type=Path, metavar="FILE", help="rankings of people, for the original's test_*.json"
    )
    report.set_defaults(run=run_report)


def _add_run(commands) -> None:
    from .suites import SUITES

    run = commands.add_parser(
        "run",
        help="score a suite and print its tables; an interrupted run resumes",
        parents=[judge_options()],
    )
    run.add_argument("suite", choices=list(SUITES), help="suite to run")
    run.add_argument(
        "--scorers",
        type=_names,
        metavar="A,B",
        help="scorers: names, folders or files (default: those of the suite)",
    )
    run.add_argument(
        "--generators",
        type=_names,
        default=("default",),
        metavar="default|all|A,B",
        help="generators whose images are scored",
    )
    run.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder of the images (default: OUT/SUITE/data, downloaded or created)",
    )
    run.add_argument(
        "--out", type=Path, default=Path("runs"), metavar="DIR", help="folder of runs (default: %(default)s)"
    )
    run.add_argument("--limit", type=positive, metavar="N", help="use only the first N prompts")
    run.add_argument("--device", help="device, or several: cuda:0,cuda:1 (default: cuda, else mps, else cpu)")
    run.add_argument(
        "--precision",
        choices=("exact", "fast", "auto"),
        default="exact",
        help="exact: the original's numbers; fast: 16 bits where that is faster; auto: fast on a GPU",
    )
    run.add_argument("--batch-size", type=positive, metavar="N", help="pairs per batch")
    run.add_argument("--offline", action="store_true", help="never use the network")
    run.add_argument(
        "--json", action="store_true", help="print the summary as JSON to stdout instead of tables"
    )
    run.set_defaults(run=run_suite)


def _add_generate(commands) -> None:
    generate = commands.add_parser("generate", help="generate images of your model for table1")
    generate.add_argument(
        "--model", required=True, help="diffusion model: hub id, pipeline folder or single file"
    )
    generate.add_argument("--lora", metavar="DIR", help="LoRA weights for the model")
    generate.add_argument(
        "--name", required=True, help="name of this generator, for `run table1 --generators`"
    )
    generate.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder in which the folder NAME is created"
    )
    generate.add_argument(
        "--prompts", type=Path, metavar="FILE", help="file of prompts (default: those of Table 1, downloaded)"
    )
    generate.add_argument("--limit", type=positive, metavar="N", help="use only the first N prompts")
    generate.add_argument(
        "--seeds", type=positive, default=10, metavar="N", help="images per prompt (default: %(default)s)"
    )
    generate.add_argument("--steps", type=positive, default=50, help="denoising steps (default: %(default)s)")
    generate.add_argument(
        "--guidance-scale", type=float, default=7.5, help="1 disables guidance (default: %(default)s)"
    )
    generate.add_argument("--height", type=positive, default=0, help="pixels (default: the model's)")
    generate.add_argument("--width", type=positive, default=0, help="pixels (default: the same as --height)")
    generate.add_argument(
        "--sampler", default="", help="ddim, ddpm, euler or flow (default: the first that the model supports)"
    )
    generate.add_argument(
        "--batch-size", type=positive, default=4, metavar="N", help="images per batch (default: %(default)s)"
    )
    generate.add_argument("--device", help="device to compute on (default: cuda, else mps, else cpu)")
    generate.add_argument("--offline", action="store_true", help="never use the network")
    generate.set_defaults(run=run_generate)


def _add_metrics(commands) -> None:
    metrics = commands.add_parser("metrics", help="compute metrics of score files, as one JSON object")
    metrics.add_argument(
        "--rankings",
        type=Path,
        metavar="FILE",
        help="file of rankings: [{id, prompt, generations, ranking}]",
    )
    metrics.add_argument(
        "--scores",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="file of [{id, rewards}]; without --rankings, files or the folder of the original's results",
    )
    metrics.set_defaults(run=run_metrics)


def run_generate(args: argparse.Namespace) -> int:
    try:
        from diffusers.utils import logging as diffusers_logging

        from refl.compare import ImageSettings
        from refl.errors import ReflError
    except ModuleNotFoundError as error:
        raise InputError(
            f"Cannot generate images: refl is not installed ({error}). Install reward-benchmark[generate]."
        ) from error
    from reward_core.scoring.device import default_device, usable_device

    from .download import PROMPTS, text_file
    from .generate import generate
    from .suites.table1 import read_prompts

    if not sys.stderr.isatty():  # diffusers has no environment variable for it
        diffusers_logging.disable_progress_bar()
    if not re.fullmatch(r"[\w.-]+", args.name) or args.name.startswith("."):
        raise InputError(f"Cannot use --name {args.name!r}: it must consist of letters, digits, - and _.")
    file = args.prompts or text_file(PROMPTS, args.out.parent, args.offline)
    prompts = read_prompts(file)[: args.limit]
    settings = ImageSettings(
        height=args.height,
        width=args.width,
        steps=args.steps,
        sampler=args.sampler,
        guidance_scale=args.guidance_scale,
        seeds=args.seeds,
        batch_size=args.batch_size,
    )
    device = usable_device(args.device or default_device())
    try:
        created = generate(args.model, args.lora, prompts, args.out / args.name, settings, device)
    except ReflError as error:
        raise InputError(str(error)) from error
    existing = len(prompts) * args.seeds - created
    logger.info("%s: %d images generated, %d existed", args.out / args.name, created, existing)
    return 0


def run_suite(args: argparse.Namespace) -> int:
    from reward_core.models.load_options import JudgeOptions

    from .run import RunConfig, run
    from .tables import print_tables

    judge = JudgeOptions(**judge_choices(args))
    fields = {key: value for key, value in vars(args).items() if key in RunConfig.__dataclass_fields__}
    config = RunConfig(**fields, judge=judge)
    try:
        summary = run(config)
    except HubError as error:
        _report_missing_files(config, error)
        raise
    if args.json:
        print(json.dumps(summary.to_json(), indent=1, ensure_ascii=False))
    else:
        print_tables(summary.parts)
        print(printable(f"{args.out / args.suite}: report.md, summary.json, scores.jsonl"))
    failed = summary.failed
    for image, reason in list(failed.items())[:FAILED_SHOWN]:
        logger.error("%s: %s", image, reason)
    if len(failed) > FAILED_SHOWN:
        logger.error("and %s more images", f"{len(failed) - FAILED_SHOWN:,}")
    return 1 if failed else 0


def _report_missing_files(config: RunConfig, error: HubError) -> None:
    """Raise HubError with the number of files that a run needs and this machine does not have; log each."""
    from .missing_files import missing_files
    from .suites import SUITES, SuiteOptions

    options = SuiteOptions(config.data_folder, config.limit, config.generators, config.offline)
    missing = missing_files(config.suite, options, config.scorers or SUITES[config.suite])
    if not missing or not (config.offline or hub_failure()):
        return  # the network works, so the error itself says more
    for file in missing:
        logger.error("%s", file)
    raise HubError(
        f"Cannot run {config.suite}: {len(missing)} files are missing, and the network is not available. "
        "Download the files listed above on another machine, copy each to the path after '->' (a cache "
        "folder whole), and run the same command again."
    ) from error


def run_report(args: argparse.Namespace) -> int:
    from .original import original_summary
    from .report import write_reports
    from .run_files import read_summary, run_folders
    from .tables import print_tables

    if not args.path.is_dir():
        raise InputError(f"Cannot find results in '{args.path}': no such folder.")
    if parts := original_summary(args.path, args.rankings):
        if args.html:
            raise InputError(
                "Cannot write a page with --html: the original's files contain no images. Leave out --html."
            )
        print_tables(parts)
        return 0
    for folder in run_folders(args.path):
        summary = read_summary(folder)
        print_tables(summary.parts)
        for path in write_reports(folder, summary, args.html):
            print(printable(path))
    return 0


def run_metrics(args: argparse.Namespace) -> int:
    if args.rankings is None:
        print(json.dumps(_generator_metrics(args.scores), indent=1))
        return 0
    from reward_core.rankings import read_rankings

    from .metrics import preference_table
    from .score_files import read_scores, scores_for

    if len(args.scores) != 1:
        raise InputError(f"Cannot use --rankings with {len(args.scores)} files of --scores. Give one.")
    rankings = read_rankings(args.rankings)
    scores = scores_for(rankings, read_scores(args.scores[0]), str(args.scores[0]))
    try:
        table = preference_table([item.ranks for item in rankings], scores)
    except ValueError as error:
        raise InputError(f"{error} The scores are in '{args.scores[0]}'.") from error
    print(json.dumps(table.to_json(), indent=1))
    return 0


def _generator_metrics(paths: list[Path]) -> dict[str, JsonObject]:
    from .metrics import generator_table
    from .score_files import human_ranks, read_generator_files, result_files

    files = [file for path in paths for file in result_files(path)]
    scores_by_scorer = read_generator_files(files)
    try:
        return {
            name: generator_table(scores, human_ranks()).to_json()
            for name, scores in scores_by_scorer.items()
        }
    except ValueError as error:
        names = ", ".join(f"'{path}'" for path in paths)
        raise InputError(f"{error} The scores are in {names}.") from error


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("must be a name, or several separated by commas")
    return names
