"""Scores in files: lists of {id, rewards}, and the original's own results."""

from __future__ import annotations

import math
from pathlib import Path

from reward_core.errors import InputError
from reward_core.files.json_file import read_json
from reward_core.rankings import RankedPrompt

from .paper import TABLE1

Rewards = list["float | None"]

#: Names of folders in the original's script that are others in its repository.
FORMER_NAMES = {"vd": "versatile-diffusion"}


def read_scores(path: Path) -> dict[str, Rewards]:
    """id -> rewards of a list of {"id", "rewards"}; a null reward is an image without a score.

    Raises:
        InputError: no such file, another form, an id given twice, a reward that is no finite number.
    """
    content = _read(path)
    if not isinstance(content, list) or not content:
        raise InputError(f"{path}: a list of {{'id', 'rewards'}} was expected, got {content!r:.80}")
    found: dict[str, Rewards] = {}
    for i, record in enumerate(content):
        where = f"{path}: record {i}"
        if not isinstance(record, dict) or "id" not in record or not isinstance(record.get("rewards"), list):
            raise InputError(f"{where}: 'id' and a list 'rewards' were expected, got {record!r:.80}")
        name = str(record["id"])
        if name in found:
            raise InputError(f"{where}: the id {name!r} was there before")
        found[name] = [_reward(where, value) for value in record["rewards"]]
    return found


def scores_for(rankings: list[RankedPrompt], scores: dict[str, Rewards], source: str) -> list[Rewards]:
    """The scores in the order of the rankings, each prompt's as many as its images.

    Raises:
        InputError: ids that are missing, twice among the rankings, or with another number of images.
    """
    ids = [item.id for item in rankings]
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise InputError(f"the rankings hold the id {twice[0]!r} more than once")
    if missing := [i for i in ids if i not in scores]:
        raise InputError(f"{source}: no rewards for {len(missing)} of {len(ids)} ids, such as {missing[0]!r}")
    for item in rankings:
        if len(scores[item.id]) != len(item.images):
            raise InputError(
                f"{source}: id {item.id!r} has {len(scores[item.id])} rewards for {len(item.images)} images"
            )
    return [scores[i] for i in ids]


def is_generator_file(path: Path) -> bool:
    """Whether a name is one of the original's Table 1 results: NAME-benchmark-GENERATOR-result.json."""
    return "-benchmark-" in path.name and path.name.endswith("-result.json")


def read_generator_files(paths: list[Path]) -> dict[str, dict[str, list[Rewards]]]:
    """scorer -> generator -> rewards of each prompt, from the original's files of Table 1.

    Generators of one scorer must hold the same prompts; they are brought into the order of the first.
    """
    found: dict[str, dict[str, dict[str, Rewards]]] = {}
    for path in paths:
        if not is_generator_file(path):
            raise InputError(f"{path}: the name should be SCORER-benchmark-GENERATOR-result.json")
        scorer, _, rest = path.name.partition("-benchmark-")
        generator = rest.removesuffix("-result.json")
        found.setdefault(scorer, {})[FORMER_NAMES.get(generator, generator)] = read_scores(path)
    for scorer, generators in found.items():
        first = next(iter(generators.values()))
        for name, scores in generators.items():
            if scores.keys() != first.keys():
                raise InputError(f"{scorer}: the prompts of {name} are not those of the other generators")
    return {
        scorer: {name: [scores[i] for i in next(iter(some.values()))] for name, scores in some.items()}
        for scorer, some in found.items()
    }


def result_files(path: Path) -> list[Path]:
    """A file itself; of a folder, the original's Table 1 results in it and one level below."""
    if not path.is_dir():
        return [path]
    files = sorted(
        p for pattern in ("*.json", "*/*.json") for p in path.glob(pattern) if is_generator_file(p)
    )
    if not files:
        raise InputError(f"{path}: no SCORER-benchmark-GENERATOR-result.json in this folder")
    return files


def human_ranks() -> dict[str, float]:
    """Generator -> rank for people, as the paper gives it."""
    return {name: float(row.rank) for name, row in TABLE1.items()}


def _reward(where: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]  # the original stores some scores as lists of one
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{where}: a reward must be a finite number or null, got {value!r:.80}")
    return float(value)


def _read(path: Path) -> object:
    if not path.is_file():
        raise InputError(f"{path}: no such file of scores")
    return read_json(path, error=InputError)
