"""Values published in the ImageReward paper (Xu et al., arXiv 2304.05977)."""

from __future__ import annotations

from dataclasses import dataclass

#: Largest difference from a published value that counts as reproduced.
TABLE1_TOLERANCE = 0.005  # in units of the mean score
TABLE3_TOLERANCE = 0.001  # in shares; 0.1 points


@dataclass(frozen=True)
class PublishedGenerator:
    """A row of Table 1 (real user prompts).

    Attributes:
        folder: name of the generator's folder and zip in the authors' repository.
        title: name for readers.
        rank: rank for people, 1 is best.
        wins: wins in people's comparisons.
        scores: scorer -> mean score.
    """

    folder: str
    title: str
    rank: int
    wins: int
    scores: dict[str, float]


TABLE1 = {
    row.folder: row
    for row in (
        PublishedGenerator(
            "openjourney", "Openjourney", 1, 507, {"ImageReward-v1.0": 0.2614, "CLIP": 0.2726}
        ),
        PublishedGenerator(
            "sd2-1", "Stable Diffusion 2.1-base", 2, 463, {"ImageReward-v1.0": 0.2458, "CLIP": 0.2683}
        ),
        PublishedGenerator("dalle2", "DALL-E 2", 3, 390, {"ImageReward-v1.0": 0.2114, "CLIP": 0.2684}),
        PublishedGenerator(
            "sd1-4", "Stable Diffusion 1.4", 4, 362, {"ImageReward-v1.0": 0.1344, "CLIP": 0.2763}
        ),
        PublishedGenerator(
            "versatile-diffusion",
            "Versatile Diffusion",
            5,
            340,
            {"ImageReward-v1.0": -0.2470, "CLIP": 0.2606},
        ),
        PublishedGenerator("cogview2", "CogView 2", 6, 74, {"ImageReward-v1.0": -1.2376, "CLIP": 0.2044}),
    )
}

#: Scorer -> Spearman's correlation with people's ranks of Table 1's generators.
TABLE1_SPEARMAN = {"ImageReward-v1.0": 1.00, "CLIP": 0.60}


@dataclass(frozen=True)
class PublishedPreference:
    """A row of Table 3 as shares in [0, 1]; ``recall``, ``filter``: k -> share."""

    accuracy: float
    recall: dict[int, float]
    filter: dict[int, float]


def _row(accuracy: float, recall: tuple[float, ...], filtered: tuple[float, ...]) -> PublishedPreference:
    def shares(percents: tuple[float, ...]) -> dict[int, float]:
        return {k: round(p / 100, 6) for k, p in zip((1, 2, 4), percents)}

    return PublishedPreference(round(accuracy / 100, 6), shares(recall), shares(filtered))


TABLE3 = {
    "CLIP": _row(54.82, (27.22, 48.52, 78.17), (29.65, 51.75, 76.82)),
    "Aesthetic": _row(57.35, (30.73, 53.91, 75.74), (32.08, 54.45, 76.55)),
    "BLIP": _row(57.76, (30.73, 50.67, 77.63), (33.42, 56.33, 80.59)),
    "ImageReward-v1.0": _row(65.14, (39.62, 63.07, 90.84), (49.06, 70.89, 88.95)),
}
