"""Files of scores: lists of {id, rewards}, and the original's result files."""

from __future__ import annotations

import math
from pathlib import Path

from reward_core.errors import InputError
from reward_core.files.json_file import read_json
from reward_core.rankings import RankedPrompt

from .paper import TABLE1

Rewards = list["float | None"]

#: Generator name in the original's script -> name in its repository.
FORMER_NAMES = {"vd": "versatile-diffusion"}


def read_scores(path: Path) -> dict[str, Rewards]:
    """Read a JSON list of {"id", "rewards"}; null means no score.

    Returns:
        id -> rewards.

    Raises:
        InputError: the file is missing, has another format, a duplicate id or a reward that is not finite.
    """
    content = _read(path)
    if not isinstance(content, list) or not content:
        raise InputError(
            f"Cannot read '{path}': expected a list of {{'id', 'rewards'}}, got {content!r:.80}."
        )
    rewards: dict[str, Rewards] = {}
    for i, record in enumerate(content):
        where = f"Cannot read '{path}': record {i}"
        if not isinstance(record, dict) or "id" not in record or not isinstance(record.get("rewards"), list):
            raise InputError(f"{where} must have 'id' and a list 'rewards', got {record!r:.80}.")
        name = str(record["id"])
        if name in rewards:
            raise InputError(f"{where} repeats the id {name!r}. Ids must be unique.")
        rewards[name] = [_reward(where, value) for value in record["rewards"]]
    return rewards


def scores_for(rankings: list[RankedPrompt], scores: dict[str, Rewards], source: str) -> list[Rewards]:
    """Return the scores of each prompt, in the order of the rankings.

    Args:
        rankings: ranked prompts with unique ids.
        scores: id -> rewards.
        source: name of the scores' file, for error messages.

    Raises:
        InputError: an id is missing or repeated, or its number of rewards is not its number of images.
    """
    ids = [item.id for item in rankings]
    if repeated := sorted({i for i in ids if ids.count(i) > 1}):
        raise InputError(f"Cannot use the rankings: the id {repeated[0]!r} is repeated. Ids must be unique.")
    if missing := [i for i in ids if i not in scores]:
        raise InputError(
            f"Cannot evaluate '{source}': it has no rewards for {len(missing)} of {len(ids)} ids of the "
            f"rankings, such as {missing[0]!r}."
        )
    for item in rankings:
        if len(scores[item.id]) != len(item.images):
            raise InputError(
                f"Cannot evaluate '{source}': id {item.id!r} has {len(scores[item.id])} rewards for "
                f"{len(item.images)} images."
            )
    return [scores[i] for i in ids]


def is_generator_file(path: Path) -> bool:
    """Return whether a file is a Table 1 result of the original, by its name."""
    return "-benchmark-" in path.name and path.name.endswith("-result.json")


def read_generator_files(paths: list[Path]) -> dict[str, dict[str, list[Rewards]]]:
    """Read the original's Table 1 result files.

    The generators of a scorer must have the same prompts. The prompts are returned in the order of the
    first generator.

    Returns:
        scorer -> generator -> rewards of each prompt.

    Raises:
        InputError: another file name or format, or generators with different prompts.
    """
    by_scorer: dict[str, dict[str, dict[str, Rewards]]] = {}
    for path in paths:
        if not is_generator_file(path):
            raise InputError(
                f"Cannot read '{path}': its name is not SCORER-benchmark-GENERATOR-result.json. Rename it."
            )
        scorer, _, rest = path.name.partition("-benchmark-")
        generator = rest.removesuffix("-result.json")
        by_scorer.setdefault(scorer, {})[FORMER_NAMES.get(generator, generator)] = read_scores(path)
    for scorer, generators in by_scorer.items():
        first, scores_of_first = next(iter(generators.items()))
        for name, scores in generators.items():
            if scores.keys() != scores_of_first.keys():
                raise InputError(
                    f"Cannot compare the generators of {scorer!r}: {name!r} and {first!r} have different "
                    "prompts. Give files with the same ids."
                )
    return {
        scorer: {
            name: [scores[i] for i in next(iter(generators.values()))] for name, scores in generators.items()
        }
        for scorer, generators in by_scorer.items()
    }


def result_files(path: Path) -> list[Path]:
    """Return a file, or the Table 1 results in a folder and its subfolders."""
    if not path.is_dir():
        return [path]
    files = sorted(
        p for pattern in ("*.json", "*/*.json") for p in path.glob(pattern) if is_generator_file(p)
    )
    if not files:
        raise InputError(
            f"Cannot find results in '{path}': the folder has no SCORER-benchmark-GENERATOR-result.json."
        )
    return files


def human_ranks() -> dict[str, float]:
    """Return generator -> rank for people, as published in the paper."""
    return {name: float(row.rank) for name, row in TABLE1.items()}


def _reward(where: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]  # the original stores some scores as lists of one number
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{where} must have finite numbers or null as rewards, got {value!r:.80}.")
    return float(value)


def _read(path: Path) -> object:
    if not path.is_file():
        raise InputError(f"Cannot read scores from '{path}': no such file.")
    return read_json(path, error=InputError)
