"""Combine single comparisons (better, worse) into groups with exactly the same comparisons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from ..inputs.image_file import ImageSource, image_name
from .ranked_prompt import RankedPrompt, untied_pairs

LARGEST = 10  # maximum images per group, because a training step needs all of them at once


@dataclass(frozen=True)
class Comparison:
    """One image preferred to another; equal keys identify the same image in several comparisons."""

    id: str
    prompt: str
    better: ImageSource
    worse: ImageSource
    better_key: Hashable
    worse_key: Hashable


def group_comparisons(comparisons: Iterable[Comparison]) -> list[RankedPrompt]:
    """Return groups whose untied pairs are exactly the comparisons, with few images in total.

    Comparisons of one prompt that connect their images become one group if a ranking implies exactly these
    comparisons. All pairs of a ranking do; A over B and B over C do not, because the ranking would add A
    over C. Other comparisons become groups of one image and all images that lost, or won, against it. No
    group has more than LARGEST images. A comparison that occurs several times, or in both directions,
    is put in several groups.
    """
    by_prompt: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        by_prompt[comparison.prompt].append(comparison)
    return [group for of_prompt in by_prompt.values() for group in _groups_of_prompt(of_prompt)]


def regroup(data: Sequence[RankedPrompt]) -> list[RankedPrompt]:
    """Combine the groups of two images by prompt and image name."""
    pairs = [item for item in data if len(item.images) == 2]
    others = [item for item in data if len(item.images) != 2]
    comparisons = []
    for item in pairs:
        better, worse = sorted(range(2), key=lambda i: item.ranks[i])
        images = item.images[better], item.images[worse]
        if item.ranks[better] != item.ranks[worse] and image_name(images[0]) != image_name(images[1]):
            comparisons.append(Comparison(item.id, item.prompt, *images, *map(image_name, images)))
    return others + group_comparisons(comparisons)


def _groups_of_prompt(comparisons: list[Comparison]) -> list[RankedPrompt]:
    groups = []
    while comparisons:
        # Take each comparison once; repeated ones are left for the next iteration.
        first = {(c.better_key, c.worse_key): c for c in reversed(comparisons)}
        taken = set(map(id, first.values()))
        comparisons = [c for c in comparisons if id(c) not in taken]
        for part in _connected(list(reversed(first.values()))):
            ranking = _ranking(part)
            groups += [ranking] if ranking else _stars(part)
    return groups


def _connected(comparisons: list[Comparison]) -> list[list[Comparison]]:
    """Split comparisons into those of each connected set of images."""
    root: dict[Hashable, Hashable] = {}

    def find(key: Hashable) -> Hashable:
        while root.setdefault(key, key) != key:
            root[key] = key = root[root[key]]
        return key

    for c in comparisons:
        root[find(c.worse_key)] = find(c.better_key)
    parts: dict[Hashable, list[Comparison]] = defaultdict(list)
    for c in comparisons:
        parts[find(c.better_key)].append(c)
    return list(parts.values())


def _ranking(comparisons: list[Comparison]) -> RankedPrompt | None:
    """Return the group whose untied pairs are exactly these comparisons, or None if there is none.

    In such a group a better rank means more wins, so the ranks follow from the numbers of wins.
    """
    wins: dict[Hashable, int] = defaultdict(int)
    for c in comparisons:
        wins[c.better_key] += 1
        wins[c.worse_key] += 0
    levels = {n: rank for rank, n in enumerate(sorted(set(wins.values()), reverse=True), 1)}
    rank = {key: levels[n] for key, n in wins.items()}
    if len(rank) > LARGEST or untied_pairs(list(rank.values())) != len(comparisons):
        return None
    if any(rank[c.better_key] >= rank[c.worse_key] for c in comparisons):
        return None
    return _group(comparisons, rank)


def _stars(comparisons: list[Comparison]) -> list[RankedPrompt]:
    """Return groups of one image against others, starting with the image in most comparisons."""
    groups = []
    while comparisons:
        sides: dict[tuple[bool, Hashable], list[Comparison]] = defaultdict(list)
        for c in comparisons:
            sides[True, c.better_key].append(c)
            sides[False, c.worse_key].append(c)
        star = max(sides.values(), key=len)[: LARGEST - 1]
        rank = {c.better_key: 1 for c in star} | {c.worse_key: 2 for c in star}
        groups.append(_group(star, rank))
        taken = set(map(id, star))
        comparisons = [c for c in comparisons if id(c) not in taken]
    return groups


def _group(comparisons: Sequence[Comparison], rank: dict[Hashable, int]) -> RankedPrompt:
    images: dict[Hashable, ImageSource] = {}
    for c in comparisons:
        images.setdefault(c.better_key, c.better)
        images.setdefault(c.worse_key, c.worse)
    order = sorted(images, key=lambda key: rank[key])
    first = comparisons[0]
    return RankedPrompt(
        first.id, first.prompt, tuple(images[key] for key in order), tuple(rank[key] for key in order)
    )
