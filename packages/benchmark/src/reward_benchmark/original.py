"""Summaries of the result files that the original's scripts write."""

from __future__ import annotations

from pathlib import Path

from reward_core.errors import InputError
from reward_core.rankings import read_rankings

from .results import PartSummary
from .score_files import human_ranks, is_generator_file, read_generator_files, read_scores, scores_for
from .score_store import Key, Score
from .suites import Group, Part
from .summary import summarize


def original_summary(path: Path, rankings: Path | None) -> list[PartSummary]:
    """Summarize the original's result files in a folder.

    Args:
        path: folder with SCORER-benchmark-GENERATOR-result.json (Table 1) or test_SCORER.json (Table 3).
        rankings: file of people's rankings, required for Table 3.

    Returns:
        The parts; empty if the folder has no such files.

    Raises:
        InputError: rankings are missing, or a file is invalid.
    """
    files = sorted(p for pattern in ("*.json", "*/*.json") for p in path.glob(pattern))
    parts: list[PartSummary] = []
    if generators := [file for file in files if is_generator_file(file)]:
        parts += _table1(generators)
    tests = [file for file in files if file.name.startswith("test_") and file.name != "test_images.json"]
    if tests and rankings is None:
        raise InputError(
            f"Cannot evaluate '{tests[0]}': people's rankings are missing. Give the original's test.json "
            "with --rankings."
        )
    if rankings is not None and tests:
        parts += _table3(tests, rankings)
    return parts


def _table1(files: list[Path]) -> tuple[PartSummary, ...]:
    scores = read_generator_files(files)
    groups: dict[tuple[str, int], Group] = {}
    rows: dict[Key, Score] = {}
    for scorer, generators in scores.items():
        for name, prompts in generators.items():
            for i, rewards in enumerate(prompts):
                names = tuple(f"{name}/{i}_{x}" for x in range(len(rewards)))
                groups.setdefault((name, i), Group(str(i), "", (), names, generator=name))
                rows |= {("table1", scorer, n): Score(r) for n, r in zip(names, rewards)}
    title = "Table 1, from the original's files"
    part = Part("table1", title, "generators", tuple(groups.values()), reference=human_ranks())
    return _summarize(part, list(scores), rows)


def _table3(files: list[Path], rankings: Path) -> tuple[PartSummary, ...]:
    ranked = read_rankings(rankings)
    groups = [
        Group(item.id, item.prompt, (), tuple(f"{item.id}/{x}" for x in range(len(item.images))), item.ranks)
        for item in ranked
    ]
    scorers: list[str] = []
    rows: dict[Key, Score] = {}
    for file in files:
        scorer = file.stem.removeprefix("test_")
        scorers.append(scorer)
        for group, rewards in zip(groups, scores_for(ranked, read_scores(file), str(file))):
            rows |= {("table3", scorer, name): Score(r) for name, r in zip(group.names, rewards)}
    part = Part("table3", "Table 3, from the original's files", "preference", tuple(groups))
    return _summarize(part, scorers, rows)


def _summarize(part: Part, scorers: list[str], rows: dict[Key, Score]) -> tuple[PartSummary, ...]:
    try:
        return summarize([part], scorers, rows)
    except ValueError as error:
        raise InputError(f"{error} The scores are those of {part.title!r}.") from error
