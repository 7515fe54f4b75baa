"""``reward-core rank``: order images by how well they suit a prompt."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.sorting import images_in
from .common import (
    batch,
    given_models,
    load_models,
    positive,
    report_failures,
    scoring_options,
    with_progress,
)
from .explain import explained_rows, print_explanation
from .tables import print_ranking, print_rankings

if TYPE_CHECKING:
    from ..files.score_file import GroupRow
    from ..models.visionreward.explanation import Explanation
    from ..scoring.scorer_group import ScorerGroup


def add_to(commands: argparse._SubParsersAction) -> None:
    rank = commands.add_parser(
        "rank", parents=[scoring_options()], help="order images by how well they suit a prompt"
    )
    rank.add_argument("prompt", metavar="PROMPT", help="text that the images should show")
    rank.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of images")
    rank.add_argument("--top", type=positive, metavar="N", help="show the N best images only")
    rank.add_argument(
        "--json", action="store_true", help="print a JSON document to stdout instead of a table"
    )
    rank.add_argument(
        "--explain", action="store_true", help="show what adds to each score (checklist models)"
    )
    rank.set_defaults(run=run_rank)


def run_rank(args: argparse.Namespace) -> int:
    images = _images(args.images)
    models, group = given_models(args), load_models(args)
    prompts = [args.prompt] * len(images)
    if args.explain:
        rows, explanations = explained_rows(group, args.prompt, images, args.batch_size)
    else:
        scored = group.score_rows(prompts, images, **batch(args))
        rows, explanations = list(with_progress(scored, total=len(prompts))), []
    failed = [row for row in rows if row.error is not None]
    results = _results(group, [row for row in rows if row.error is None], explanations)[: args.top]
    several = len(group.names) > 1
    if args.json:
        document = {
            **({"models": group.names} if several else {"model": models[0]}),
            "prompt": args.prompt,
            "results": [_flat(result, group.names) | _explained(result) for result in results],
            "failed": [{"image": row.image, "error": row.error} for row in failed],
        }
        print(json.dumps(document, ensure_ascii=False, indent=1))
    elif results and several:
        print_rankings(models, group.names, args.prompt, results)
    elif results:
        print_ranking(models[0], group[group.names[0]], args.prompt, _only(results, group.names[0]))
        for result in results if args.explain else []:
            print_explanation(result["image"], result["explanation"])
    return report_failures(failed)


def _images(paths: Sequence[str]) -> list[str]:
    """Return image files, those of folders by name.

    Images of folders are listed once. A folder without images stays, so that it is reported as unreadable.
    """
    images: list[str] = []
    for path in paths:
        inside: list[Path] = []
        if os.path.isdir(path):
            with contextlib.suppress(OSError):  # reported when the folder is opened as an image
                inside = images_in(Path(path))
        given = {os.path.abspath(image) for image in images}
        images += [str(i) for i in inside if os.path.abspath(i) not in given] if inside else [path]
    return images


def _results(
    group: ScorerGroup, rows: Sequence[GroupRow], explanations: Sequence[Explanation]
) -> list[dict[str, Any]]:
    """Return image and scores of each row, in the order of the first scorer.

    Equal scores keep the order in which the images were given.

    Args:
        group: the scorers.
        rows: the rows, without errors.
        explanations: one for each row, or none.
    """
    from ..scoring.rewards import ranking

    results: list[dict[str, Any]] = [{"image": row.image, "scores": {}} for row in rows]
    for result, explanation in zip(results, explanations):
        result["explanation"] = explanation
    for name in group.names if rows else []:
        scores = [row.scores[name] for row in rows]
        for result, rank, score in zip(results, ranking(scores), scores):
            percentile = group[name].percentile(score)
            result["scores"][name] = {"place": rank, "score": score, "percentile": percentile}
    return sorted(results, key=lambda result: result["scores"][group.names[0]]["place"])


def _flat(result: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a result for JSON; the scores of a single scorer are not nested."""
    if len(names) > 1:
        return result
    place, score, percentile = result["scores"][names[0]].values()
    return {"place": place, "image": result["image"], "score": score, "percentile": percentile}


def _explained(result: dict[str, Any]) -> dict[str, Any]:
    """Return the explanation of a result for JSON, if there is one."""
    return {"explanation": result["explanation"].to_dict()} if "explanation" in result else {}


def _only(results: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [_flat(result, [name]) for result in results]
