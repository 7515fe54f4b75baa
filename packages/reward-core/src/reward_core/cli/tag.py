"""``reward-core tag``: write scores into the metadata of images."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ImageError, InputError
from ..files.sorting import images_in
from .common import batch, given_models, load_models, report_failures, scoring_options, with_progress
from .tag_report import Tag, Tagged, print_tagged, tag_document

if TYPE_CHECKING:
    from ..metadata import FoundPrompt
    from ..scoring.scorer_group import ScorerGroup

NO_IMAGES = "no PNG, JPEG or WebP images in this folder"


def add_to(commands: argparse._SubParsersAction) -> None:
    tag = commands.add_parser(
        "tag",
        parents=[scoring_options()],
        help="write scores into images' metadata (PNG, JPEG, WebP)",
        description="Score images and write the scores into their metadata. Pixels, other metadata, scores "
        "of other models and file times do not change.",
    )
    tag.add_argument("images", nargs="+", metavar="IMAGE", help="files, or folders of images")
    prompt = tag.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="one prompt for all images")
    prompt.add_argument(
        "--prompt-from-metadata",
        action="store_true",
        help="read each image's prompt: AUTOMATIC1111, ComfyUI, plain text, or picture.txt beside it",
    )
    tag.add_argument("--key", help='name of the score (default: the model\'s, such as "ImageReward Score")')
    tag.add_argument(
        "--overwrite", action="store_true", help="replace scores of other models under the same name"
    )
    tag.add_argument("--skip-tagged", action="store_true", help="skip images that already have the scores")
    tag.add_argument("--dry-run", action="store_true", help="score, but write nothing")
    tag.add_argument("--json", action="store_true", help="print a JSON document to stdout instead of a table")
    tag.set_defaults(run=run_tag)


@dataclass
class _Found:
    """The images to tag, to skip, and those that cannot be tagged."""

    images: list[tuple[Path, FoundPrompt]] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[Tagged] = field(default_factory=list)


def run_tag(args: argparse.Namespace) -> int:
    tags = _tags(given_models(args), args.key, args.template)
    found = _find(args, tags)
    tagged: list[Tagged] = []
    failed, group = found.failed, None
    if found.images:
        group = load_models(args)
        for done in with_progress(_tag(group, found.images, tags, args), total=len(found.images)):
            (tagged if done.row.error is None else failed).append(done)
    failures = [done.row for done in failed]
    if args.json:
        document = tag_document(given_models(args), tags, group, tagged, not args.dry_run)
        document |= {
            "skipped": [str(image) for image in found.skipped],
            "failed": [{"image": row.image, "error": row.error} for row in failures],
        }
        print(json.dumps(document, ensure_ascii=False, indent=1))
    elif group is not None and tagged:
        print_tagged(given_models(args), tags, group, tagged, not args.dry_run)
    if found.skipped and not args.json:
        print(f"{len(found.skipped)} skipped: already scored")
    return report_failures(failures)


def _tags(models: Sequence[str], key: str | None, template: str | None) -> list[Tag]:
    """Return the tag of each model.

    Raises:
        InputError: an invalid key, or two models with one key.
    """
    from ..metadata import check_key
    from ..models.model_identity import identify
    from ..models.scorer_names import scorer_names

    if key is not None:
        check_key(key)
        if len(models) > 1:
            raise InputError(
                "Cannot use --key with several models: each score needs another name. Tag with one model at "
                "a time, or leave out --key."
            )
    makers = [identify(model, template) for model in models]
    tags = [
        Tag(name, key or maker.score_key, maker.identity) for name, maker in zip(scorer_names(models), makers)
    ]
    keys = [tag.key for tag in tags]
    for repeated in (name for name in keys if keys.count(name) > 1):
        raise InputError(
            f"Cannot tag with several models under one name: {repeated!r}. Tag with one model at a time, and "
            "choose another name with --key."
        )
    return tags


def _find(args: argparse.Namespace, tags: Sequence[Tag]) -> _Found:
    """Return images with their prompts, images to skip, and images without a prompt."""
    from ..metadata import FoundPrompt, read_prompt

    images, empty = _images(args.images)
    if not images:
        raise InputError(f"Cannot tag '{empty[0]}': {NO_IMAGES}.")
    found = _Found(failed=[_failure(folder, NO_IMAGES) for folder in empty])
    for image in images:
        try:
            # A list, so that each tag is checked for scores of other models.
            if all([_is_tagged(image, tag, args) for tag in tags]) and args.skip_tagged:
                found.skipped.append(image)
                continue
            prompt = FoundPrompt(args.prompt, "given") if args.prompt is not None else read_prompt(image)
            found.images.append((image, prompt))
        except ImageError as error:
            found.failed.append(_failure(image, error.reason))
    return found


def _is_tagged(image: Path, tag: Tag, args: argparse.Namespace) -> bool:
    """Return whether an image carries a score of this model.

    Raises:
        ImageError: it has another model's score under the same name, and --overwrite is not set.
    """
    from ..metadata import read_stored_score

    stored = read_stored_score(image, tag.key)
    if stored is None:
        return False
    if stored.model == tag.made_by:
        return not args.skip_tagged or math.isfinite(stored.value)
    if args.overwrite:
        return False
    maker = f"a score of {stored.model}" if stored.model else "a score of an unknown model"
    raise ImageError(
        str(image),
        f"it carries {maker} as {tag.key!r} ({stored.text:.20}). Replace it with --overwrite, or choose "
        "another name with --key",
    )


def _tag(
    group: ScorerGroup,
    found: Sequence[tuple[Path, FoundPrompt]],
    tags: Sequence[Tag],
    args: argparse.Namespace,
) -> Iterator[Tagged]:
    """Score the images and write each score at once, so that an interruption loses none; yield each."""
    from ..metadata import write_score

    prompts, images = [prompt.text for _, prompt in found], [image for image, _ in found]
    for (image, prompt), row in zip(found, group.score_rows(prompts, images, **batch(args))):
        try:
            if row.error is None and not args.dry_run:
                for tag in tags:
                    score = row.scores[tag.name]
                    write_score(image, tag.key, score, model=tag.made_by, prompt=args.prompt)
            others = {} if row.error is not None else _other_scores(image, tags)
        except ImageError as error:
            yield _failure(image, error.reason)
            continue
        yield Tagged(row, prompt.source, others)


def _other_scores(image: Path, tags: Sequence[Tag]) -> dict[str, str]:
    """Return key -> text of the scores in an image under other names."""
    from ..metadata import read_score_keys, read_stored_score

    ours = [tag.key for tag in tags]
    stored = {key: read_stored_score(image, key) for key in read_score_keys(image) if key not in ours}
    return {key: score.text for key, score in stored.items() if score is not None}


def _images(names: list[str]) -> tuple[list[Path], list[Path]]:
    """Return the images and the folders without images; skip captions that ``pictures/*`` matches."""
    images: dict[Path, None] = {}
    empty = []
    for path in map(Path, names):
        inside = images_in(path) if path.is_dir() else [path]
        if not inside:
            empty.append(path)
        images.update(dict.fromkeys(inside))
    stems = {path.with_suffix("") for path in images if path.suffix.lower() != ".txt"}
    return [p for p in images if p.suffix.lower() != ".txt" or p.with_suffix("") not in stems], empty


def _failure(image: Path, reason: str) -> Tagged:
    from ..files.score_file import GroupRow

    return Tagged(GroupRow("", str(image), {}, reason), "")
