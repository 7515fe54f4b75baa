"""Scores to sort images by: from the images' metadata, or from a file of ``reward-core score``."""

from __future__ import annotations

import csv
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ImageError, InputError
from ..files.json_file import parse_json, read_json
from ..files.tables import TableBudget, bounded_lines, open_table, table_lines
from . import read_prompt, read_score_keys, read_stored_score


@dataclass(frozen=True)
class ImageScore:
    """A score, and the prompt that it was made for (None: not known)."""

    value: float
    prompt: str | None = None


@dataclass
class ImageScores:
    """Scores of several images.

    Attributes:
        scores: of each image that has one.
        failed: (image, reason) of each that has none.
        key: the name of the scores in the images; None if they are from a file.
        model: the model that made them; None if that is not known.
    """

    scores: dict[Path, ImageScore] = field(default_factory=dict)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    key: str | None = None
    model: str | None = None

    def by_prompt(self) -> dict[str | None, dict[Path, float]]:
        """Return the scores of each prompt's images."""
        groups: dict[str | None, dict[Path, float]] = {}
        for image, score in self.scores.items():
            groups.setdefault(score.prompt, {})[image] = score.value
        return groups


def scores_in_images(images: Sequence[Path], key: str | None) -> ImageScores:
    """Read the scores that images carry in their metadata.

    Args:
        images: the files.
        key: the name of the scores; None: the only one that the images carry.

    Raises:
        InputError: the images carry scores of several names, or of several models under this name.
    """
    found = ImageScores(key=key or _only_key(images))
    models: Counter[str | None] = Counter()
    for image in images:
        try:
            stored = None if found.key is None else read_stored_score(image, found.key)
            if stored is None:
                found.failed.append((image, "no score (run `reward-core tag` first); left where it is"))
                continue
            found.scores[image] = ImageScore(stored.value, _one_line(stored.prompt or _own_prompt(image)))
            models[stored.model] += 1
        except ImageError as error:
            found.failed.append((image, error.reason))
    known = [model for model in models if model is not None]
    if len(known) > 1:
        raise InputError(
            f"Cannot sort by {found.key!r}: these scores are of different models ({_counts(models)}). "
            "Score all images with one of them: `reward-core tag ... --overwrite`."
        )
    found.model = known[0] if len(models) == len(known) == 1 else None
    return found


def scores_in_file(images: Sequence[Path], path: Path) -> ImageScores:
    """Find the images' scores in a file of ``reward-core score``, by the images' names.

    Raises:
        InputError: as read_scores.
    """
    rows, found = read_scores(path), ImageScores()
    for image in images:
        score = rows.get(image.name)
        if score is None:
            found.failed.append((image, f"no score (none in {path}); left where it is"))
        elif not math.isfinite(score.value):
            reason = f"its score in {path} is {score.value}, not a finite number; left where it is"
            found.failed.append((image, reason))
        else:
            found.scores[image] = ImageScore(score.value, _one_line(score.prompt or _own_prompt(image)))
    return found


def read_scores(path: Path) -> dict[str, ImageScore]:
    """Return the scores of a file that ``reward-core score`` wrote (.csv, .json, .jsonl, .parquet).

    Returns:
        Names of images -> scores. A score may be NaN or infinite.

    Raises:
        InputError: no such file, another form, a score that is no number, or several scores of one image.
    """
    try:
        found: dict[str, ImageScore] = {}
        for row in _rows(path):
            if row["score"] in (None, ""):
                continue  # an image that could not be scored
            name, prompt = os.path.basename(row["image"]), row.get("prompt")
            score = ImageScore(_number(name, row["score"]), prompt if isinstance(prompt, str) else None)
            known = found.setdefault(name, score).value
            if known != score.value and not (math.isnan(known) and math.isnan(score.value)):
                raise InputError(f"{path}: {name} has several scores; sort needs one for each image")
        return found
    except (KeyError, TypeError, AttributeError, ValueError, OSError, CheckpointError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        detail = f"column {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: no scores of `reward-core score` ({detail})") from error


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with open_table(path, newline="") as file:
            return list(csv.DictReader(table_lines(file)))
    if path.suffix == ".json":
        return read_json(path)
    if path.suffix == ".jsonl":
        with open_table(path) as file:
            budget = TableBudget()
            return [parse_json(line, budget) for line in bounded_lines(file) if line.strip()]
    if path.suffix == ".parquet":
        from ..files.parquet import load_pyarrow, read_cells

        with load_pyarrow().parquet.ParquetFile(path) as file:
            return read_cells(file)
    raise InputError(f"{path}: the extension must be .csv, .json, .jsonl or .parquet")


def _number(name: str, value: Any) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        pass
    raise ValueError(f"the score of {name} is {value!r:.40}, which is no number")


def _only_key(images: Sequence[Path]) -> str | None:
    """Return the only name of scores in images; None if no image has a score."""
    keys: Counter[str] = Counter()
    for image in images:
        try:
            keys.update(read_score_keys(image))
        except ImageError:
            continue  # it is reported when its score is read
    if len(keys) > 1:
        raise InputError(
            f"Cannot choose a score to sort by: the images carry several ({_counts(keys)}). "
            "Name one of them with --key."
        )
    return next(iter(keys), None)


def _own_prompt(image: Path) -> str | None:
    """Return the prompt in an image's metadata, as ``reward-core tag --prompt-from-metadata`` finds it."""
    try:
        return read_prompt(image).text
    except ImageError:
        return None


def _one_line(prompt: str | None) -> str | None:
    return " ".join(prompt.split()) if prompt else None


def _counts(counter: Counter) -> str:
    return ", ".join(f"{name or 'unknown'}: {_images(count)}" for name, count in counter.most_common())


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"
