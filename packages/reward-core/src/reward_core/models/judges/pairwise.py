"""Judges that compare two images; images are ranked by the comparisons they win."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from ...errors import AnswerError, ImageError, InputError, RewardCoreError
from ...inputs.image_file import ImageSource, image_name
from ...inputs.tokenizer import check_prompts
from .answers import Answer, Outcome, Question, jpeg_of
from .inputs import as_list, checked_images
from .judge import Judge, Judgment, scores_tensor
from .parsing import read_shares, wins_of_first


@dataclass(frozen=True)
class Comparison:
    """A comparison of two images in both orders.

    Attributes:
        wins: share of the two comparisons that the first image won: 0, 0.25, 0.5, 0.75 or 1. A tie counts
            as half a win.
        orders_agree: whether both orders gave the same result. Otherwise the judge prefers a position.
        answers: the answers for (first, second) and (second, first).
    """

    wins: float
    orders_agree: bool
    answers: tuple[str, str]


class PairwiseJudge(Judge):
    """A judge that compares images; kind "pairwise" of `JudgeTemplate`.

    The score of an image is the share of its comparisons that it wins, from 0 to 1, against all other images
    of the same prompt in the call, in both orders. So scores depend on the other images, and N images of a
    prompt need N (N - 1) answers. An image of which one comparison has no clear answer has no score.
    """

    def compare(self, prompt: str, a: ImageSource, b: ImageSource) -> Comparison:
        """Compare two images in both orders.

        Raises:
            ImageError, AnswerError, ServerError: as in ``score_pairs``.
        """
        check_prompts([prompt])
        images = [jpeg_of(a), jpeg_of(b)]
        answers, wins = [], []
        for outcome in self.ask((self._question(prompt, images, order) for order in ((0, 1), (1, 0))), None):
            won = self._won(outcome)
            if isinstance(won, RewardCoreError):
                raise won
            assert isinstance(outcome, Answer)  # otherwise it is an error
            answers.append(outcome.text)
            wins.append(won)
        first, second = wins[0], 1 - wins[1]
        return Comparison((first + second) / 2, first == second, (answers[0], answers[1]))

    def score_matrix(
        self, prompts: Sequence[str], images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> Tensor:
        prompts, images = as_list(prompts), checked_images(images)
        check_prompts(prompts)
        rows = [self._tournament(prompt, images, batch_size) for prompt in prompts]
        return torch.stack([scores_tensor(row) for row in rows])

    def _judgments(
        self, prompts: Sequence[str], images: Sequence[ImageSource], batch_size: int | None
    ) -> list[Judgment]:
        """Return the judgment of each pair after the tournaments of all prompts.

        The images of a prompt are compared with each other; only one readable image is an error.
        """
        indices: dict[str, list[int]] = {}
        for i, prompt in enumerate(prompts):
            indices.setdefault(prompt, []).append(i)
        judgments: dict[int, Judgment] = {}
        for prompt, group in indices.items():
            results = self._tournament(prompt, [images[i] for i in group], batch_size)
            judgments.update(zip(group, results))
        return [judgments[i] for i in range(len(prompts))]

    def _tournament(
        self, prompt: str, images: Sequence[ImageSource], batch_size: int | None
    ) -> list[Judgment]:
        """Return a judgment of each image after all comparisons in both orders."""
        jpegs, errors = _read(images)
        orders = list(permutations(jpegs, 2))
        wins: dict[int, list[float]] = {i: [] for i in jpegs}
        questions = (self._question(prompt, jpegs, order) for order in orders)
        for (first, second), outcome in zip(orders, self.ask(questions, batch_size)):
            won = self._won(outcome)
            if isinstance(won, RewardCoreError):
                errors.setdefault(first, won)
                errors.setdefault(second, won)
            else:
                wins[first].append(won)
                wins[second].append(1 - won)
        if len(jpegs) == 1:
            (alone,) = jpegs
            errors[alone] = InputError(
                f"Cannot score {image_name(images[alone])} with {self.name!r}: a pairwise judge needs at "
                "least two images of a prompt. Give more, or choose a pointwise judge."
            )
        return [
            Judgment(None, error=errors[i]) if i in errors else Judgment(sum(wins[i]) / len(wins[i]))
            for i in range(len(images))
        ]

    def _question(
        self, prompt: str, jpegs: dict[int, bytes] | list[bytes], order: tuple[int, int]
    ) -> Question:
        first, second = order
        return self.question(prompt, (jpegs[first], jpegs[second]))

    def _won(self, outcome: Outcome) -> float | RewardCoreError:
        """Return what the first image of a comparison won, 0 to 1, or why that is unknown."""
        if not isinstance(outcome, Answer):
            return outcome
        try:
            return wins_of_first(read_shares(self.template, outcome))
        except AnswerError as error:
            return error


def _read(images: Sequence[ImageSource]) -> tuple[dict[int, bytes], dict[int, RewardCoreError]]:
    """Return the JPEG files of the images that can be read, and the errors of the others, by index."""
    jpegs: dict[int, bytes] = {}
    errors: dict[int, RewardCoreError] = {}
    for i, image in enumerate(images):
        try:
            jpegs[i] = jpeg_of(image)
        except ImageError as error:
            errors[i] = error
    return jpegs, errors
