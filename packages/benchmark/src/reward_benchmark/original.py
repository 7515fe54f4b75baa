"""The original's result files as parts of a summary."""

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
    """Parts of a summary from SCORER-benchmark-GENERATOR-result.json and test_SCORER.json in a folder.

    rankings: people's, needed for the latter. An empty list where there are no such files.
    """
    files = sorted(p for pattern in ("*.json", "*/*.json") for p in path.glob(pattern))
    parts: list[PartSummary] = []
    if generators := [file for file in files if is_generator_file(file)]:
        parts += _table1(generators)
    tests = [file for file in files if file.name.startswith("test_") and file.name != "test_images.json"]
    if tests and rankings is None:
        raise InputError(f"{tests[0]}: --rankings with people's test.json is needed beside it")
    if rankings is not None and tests:
        parts += _table3(tests, rankings)
    return parts


def _table1(files: list[Path]) -> tuple[PartSummary, ...]:
    found = read_generator_files(files)
    groups: dict[tuple[str, int], Group] = {}
    rows: dict[Key, Score] = {}
    for scorer, generators in found.items():
        for name, prompts in generators.items():
            for i, rewards in enumerate(prompts):
                names = tuple(f"{name}/{i}_{x}" for x in range(len(rewards)))
                groups.setdefault((name, i), Group(str(i), "", (), names, generator=name))
                rows |= {("table1", scorer, n): Score(r) for n, r in zip(names, rewards)}
    title = "Table 1, from the original's files"
    part = Part("table1", title, "generators", tuple(groups.values()), reference=human_ranks())
    return _summarize(part, list(found), rows)


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
        raise InputError(str(error)) from error
