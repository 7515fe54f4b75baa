"""Scores of images, from their metadata or from a file of ``reward-core score``."""

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
from ..files.score_file import FIXED_COLUMNS, SCORE
from ..files.tables import TableBudget, bounded_lines, open_table, table_lines
from . import read_prompt, read_score_keys, read_stored_score


@dataclass(frozen=True)
class ImageScore:
    """A score and its prompt (None if unknown)."""

    value: float
    prompt: str | None = None


@dataclass
class ImageScores:
    """Scores of several images.

    Attributes:
        scores: score of each image that has one.
        failed: (image, reason) of each image without a score.
        key: name of the scores in the images; None if they come from a file.
        model: model that computed the scores; None if unknown.
    """

    scores: dict[Path, ImageScore] = field(default_factory=dict)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    key: str | None = None
    model: str | None = None

    def by_prompt(self) -> dict[str | None, dict[Path, float]]:
        """Return the scores of the images of each prompt."""
        groups: dict[str | None, dict[Path, float]] = {}
        for image, score in self.scores.items():
            groups.setdefault(score.prompt, {})[image] = score.value
        return groups


def scores_in_images(images: Sequence[Path], key: str | None) -> ImageScores:
    """Read the scores in the metadata of images.

    Args:
        images: the files.
        key: name of the scores; None for the only name in the images.

    Raises:
        InputError: the images have scores with several names, or of several models under this name.
    """
    result = ImageScores(key=key or _only_key(images))
    models: Counter[str | None] = Counter()
    for image in images:
        try:
            stored = None if result.key is None else read_stored_score(image, result.key)
            if stored is None:
                result.failed.append((image, "no score, not moved (run `reward-core tag` first)"))
                continue
            prompt = _one_line(stored.prompt or _prompt_in_metadata(image))
            result.scores[image] = ImageScore(stored.value, prompt)
            models[stored.model] += 1
        except ImageError as error:
            result.failed.append((image, error.reason))
    known = [model for model in models if model is not None]
    if len(known) > 1:
        raise InputError(
            f"Cannot sort by {result.key!r}: these scores are of different models ({counts(models)}). "
            "Score all images with one of them: `reward-core tag ... --overwrite`."
        )
    result.model = known[0] if len(models) == len(known) == 1 else None
    return result


def scores_in_file(images: Sequence[Path], path: Path, column: str | None = None) -> ImageScores:
    """Look up the scores of images by file name in a file of ``reward-core score``.

    Args:
        images: the files.
        path: the file of scores.
        column: name of the scorer; None for the only one in the file.

    Raises:
        InputError: as in `read_scores`.
    """
    rows, result = read_scores(path, column), ImageScores(model=column)
    for image in images:
        score = rows.get(image.name)
        if score is None:
            result.failed.append((image, f"no score in {path}, not moved"))
        elif not math.isfinite(score.value):
            reason = f"its score in {path} is {score.value}, not a finite number; not moved"
            result.failed.append((image, reason))
        else:
            prompt = _one_line(score.prompt or _prompt_in_metadata(image))
            result.scores[image] = ImageScore(score.value, prompt)
    return result


def read_scores(path: Path, column: str | None = None) -> dict[str, ImageScore]:
    """Read a file of ``reward-core score`` (.csv, .json, .jsonl, .parquet).

    Args:
        path: the file.
        column: name of the scorer; None for the only one in the file.

    Returns:
        Scores by file name of the image. They may be NaN or infinite.

    Raises:
        InputError: the file does not exist or has another format, a score is not a number, an image has
            several scores, or the file has several scorers and ``column`` is not one of them.
    """
    try:
        scores: dict[str, ImageScore] = {}
        rows = _rows(path)
        column = _column(path, rows, column)
        for row in rows:
            if row[column] in (None, ""):
                continue  # an image that could not be scored
            name, prompt = os.path.basename(row["image"]), row.get("prompt")
            score = ImageScore(_number(name, row[column]), prompt if isinstance(prompt, str) else None)
            known = scores.setdefault(name, score).value
            if known != score.value and not (math.isnan(known) and math.isnan(score.value)):
                raise InputError(
                    f"Cannot sort by the scores in '{path}': {name} has several. Keep one for each image."
                )
        return scores
    except (KeyError, TypeError, AttributeError, ValueError, OSError, CheckpointError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        detail = f"it has no column {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise InputError(
            f"Cannot read scores from '{path}': {detail}. Give a file that `reward-core score` wrote."
        ) from error


def _column(path: Path, rows: Sequence[dict[str, Any]], wanted: str | None) -> str:
    """Return the column of the scores; raise InputError if the file does not have it."""
    first = rows[0] if rows else {}
    scorers = [name for name in first if name not in FIXED_COLUMNS]
    if wanted is None and (SCORE in first or not scorers):
        return SCORE
    if wanted is None and len(scorers) == 1:
        return scorers[0]
    if wanted in scorers or (wanted is not None and not rows):
        return wanted
    known = ", ".join(map(str, scorers))
    if wanted is None:
        raise InputError(
            f"Cannot choose a score to sort by: '{path}' has several ({known}). Choose one with --key."
        )
    raise InputError(f"Cannot sort by {wanted!r}: '{path}' has no such column. Its scores are: {known}.")


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
    raise InputError(
        f"Cannot read scores from '{path}': the extension must be .csv, .json, .jsonl or .parquet."
    )


def _number(name: str, value: Any) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        pass
    raise ValueError(f"the score of {name} is {value!r:.40}, not a number")


def score_keys(images: Sequence[Path]) -> Counter[str]:
    """Return the names of the scores in the images, with the number of images of each."""
    keys: Counter[str] = Counter()
    for image in images:
        try:
            keys.update(read_score_keys(image))
        except ImageError:
            continue  # reported when the score is read
    return keys


def _only_key(images: Sequence[Path]) -> str | None:
    """Return the only name of scores in the images; None if no image has a score."""
    keys = score_keys(images)
    if len(keys) > 1:
        raise InputError(
            f"Cannot choose a score to sort by: the images have several ({counts(keys)}). "
            "Choose one of them with --key."
        )
    return next(iter(keys), None)


def _prompt_in_metadata(image: Path) -> str | None:
    """Return the prompt in the metadata of an image, or None."""
    try:
        return read_prompt(image).text
    except ImageError:
        return None


def _one_line(prompt: str | None) -> str | None:
    return " ".join(prompt.split()) if prompt else None


def counts(counter: Counter) -> str:
    return ", ".join(f"{name or 'unknown'}: {_images(count)}" for name, count in counter.most_common())


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"
