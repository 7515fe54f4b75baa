"""The base class of judges, and judges that rate one image at a time.

Letters in shape comments: N images or pairs, P prompts.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from ...errors import AnswerError, ImageError, InputError, RewardCoreError
from ...files.score_file import ScoredRow
from ...inputs.image_file import ImageSource, image_name
from ...inputs.tokenizer import check_prompts
from ...scoring.batching import checked_batch_size
from ...scoring.model_source import ModelSource
from ...scoring.rewards import ranking
from .answer_cache import AnswerCache, cached_answers
from .answers import VLM, Answer, Outcome, Question, jpeg_of
from .inputs import as_list, checked_images, checked_pairs
from .parsing import mean, read_scores
from .templates import YES_NO, JudgeTemplate

T = TypeVar("T")


@dataclass(frozen=True)
class Judgment:
    """What a judge says about an image.

    Attributes:
        score: the score; None if there is an error.
        dimensions: scores by dimension, such as {"alignment": 3.5, "coherence": 4, "style": 3}.
        answer: text of the answer.
        error: why there is no score: an image or an answer that cannot be read, or a failed request.
    """

    score: float | None
    dimensions: Mapping[str, float] = field(default_factory=dict)
    answer: str = ""
    error: RewardCoreError | None = None

    @property
    def reason(self) -> str | None:
        """The error as it is stored in a row; None if there is a score."""
        if isinstance(self.error, ImageError):
            return self.error.reason
        return None if self.error is None else str(self.error)


class Judge(ABC):
    """A scorer that asks a vision-language model. It has the methods of `reward_core.Scorer`.

    Args:
        template: the question.
        vlm: the model.
        name: name of the judge (default: that of the template).
        cache: where answers are stored; None stores none.
        source: origin of the weights, for results and cards.
    """

    score_quantiles = None  # scores of judges have no reference distribution

    def __init__(
        self,
        template: JudgeTemplate,
        vlm: VLM,
        *,
        name: str = "",
        cache: AnswerCache | None = None,
        source: ModelSource | None = None,
    ):
        self.template, self.vlm, self.cache, self.source = template, vlm, cache, source
        self.name = name or template.name

    def score_rows(
        self, prompts: Sequence[str], images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> Iterator[ScoredRow]:
        """Yield a row for each pair, in order.

        A row has an error instead of a score if its image or the judge's answer cannot be read, or if its
        request failed.
        """
        prompts, images = checked_pairs(prompts, images)
        judgments = self._judgments(prompts, images, batch_size)
        for prompt, image, judgment in zip(prompts, images, judgments):
            yield ScoredRow(prompt, image_name(image), judgment.score, judgment.reason)

    def score_pairs(
        self, prompts: Sequence[str], images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> Tensor:
        """Return the scores (N,) of prompt i with image i, float32.

        Args:
            prompts: N strings.
            images: N paths or PIL images.
            batch_size: questions at once (default: chosen by the model).

        Raises:
            InputError: no input, or unequal numbers of prompts and images.
            ImageError: an image that cannot be read.
            AnswerError: an answer that cannot be read.
            ServerError: the server cannot be used, or a request failed.
        """
        prompts, images = checked_pairs(prompts, images)
        return scores_tensor(self._judgments(prompts, images, batch_size))

    @abstractmethod
    def _judgments(
        self, prompts: Sequence[str], images: Sequence[ImageSource], batch_size: int | None
    ) -> Iterable[Judgment]:
        """Return the judgment of each pair, in order."""

    @abstractmethod
    def score_matrix(
        self, prompts: Sequence[str], images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> Tensor:
        """Return the scores (P, N) of every prompt with every image. Raises are as in ``score_pairs``."""

    def score(
        self, prompt: str, image: ImageSource | Sequence[ImageSource], *, batch_size: int | None = None
    ) -> float | list[float]:
        """Return the score of one image (a float) or of each image in a list (a list)."""
        source: Any = as_list(image)
        if isinstance(source, (list, tuple)):
            return self.score_matrix([prompt], source, batch_size=batch_size)[0].tolist()
        return self.score_matrix([prompt], [source], batch_size=batch_size).item()

    def inference_rank(
        self, prompt: str, images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> tuple[list[int], list[float]]:
        """Return the rank (1 is best) and the score of each image. Equal scores are ranked in input order."""
        scores = self.score_matrix([prompt], images, batch_size=batch_size)[0].tolist()
        return ranking(scores), scores

    def digest(self) -> str:
        """Return a SHA-256 of the template and of everything about the model that answers depend on."""
        content = {"template": asdict(self.template), "vlm": dict(self.vlm.identity)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def percentile(self, score: float) -> None:
        """Return None: scores of judges have no reference distribution."""
        return None

    def rewards_from_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> NoReturn:
        """Raise InputError: answers have no gradient."""
        raise InputError(
            f"Cannot compute a gradient with {self.name!r}: it is a VLM judge, and its answers have no "
            "gradient. Choose a differentiable scorer (see `reward-core models`)."
        )

    def question(self, prompt: str, images: tuple[bytes, ...]) -> Question:
        """Return the question about a prompt and JPEG images."""
        words = (self.template.labels[0], self.template.labels[1]) if self.template.kind == YES_NO else None
        return Question(self.template.question(prompt), images, self.template.max_tokens, words)

    def ask(self, questions: Iterable[Question | ImageError], batch_size: int | None) -> Iterator[Outcome]:
        """Yield the outcome of each question, in order. An ImageError instead of a question is passed on.

        A thread prepares the next questions, and so reads their images, while the model answers.
        """
        if batch_size is not None:
            checked_batch_size(batch_size, torch.device("cpu"))
        waiting, count = iter(questions), max(self.vlm.questions_at_once, batch_size or 1)
        for items in _ahead(lambda: list(islice(waiting, count))):
            asked = [item for item in items if isinstance(item, Question)]
            answers = cached_answers(self.vlm, asked, self.cache, batch_size)
            for item in items:
                yield next(answers) if isinstance(item, Question) else item


class PointwiseJudge(Judge):
    """A judge that rates each image by itself; kinds "pointwise" and "yes_no" of `JudgeTemplate`.

    The score is the mean of the dimensions, or the probability of yes.
    """

    def details(
        self, prompt: str, images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> list[Judgment]:
        """Return score, dimensions and answer for each image. An image without a score has an error."""
        images = checked_images(images)
        return list(self._judgments([prompt] * len(images), images, batch_size))

    def score_matrix(
        self, prompts: Sequence[str], images: Sequence[ImageSource], *, batch_size: int | None = None
    ) -> Tensor:
        prompts, images = as_list(prompts), checked_images(images)
        check_prompts(prompts)
        pairs = [(prompt, image) for prompt in prompts for image in images]
        judgments = self._judgments([p for p, _ in pairs], [image for _, image in pairs], batch_size)
        return scores_tensor(judgments).view(len(prompts), len(images))

    def _judgments(
        self, prompts: Sequence[str], images: Sequence[ImageSource], batch_size: int | None
    ) -> Iterator[Judgment]:
        check_prompts(prompts)
        questions = (self._question(prompt, image) for prompt, image in zip(prompts, images))
        return map(self._judgment, self.ask(questions, batch_size))

    def _question(self, prompt: str, image: ImageSource) -> Question | ImageError:
        try:
            return self.question(prompt, (jpeg_of(image),))
        except ImageError as error:
            return error

    def _judgment(self, outcome: Outcome) -> Judgment:
        if not isinstance(outcome, Answer):
            return Judgment(None, error=outcome)
        try:
            dimensions = self._dimensions(outcome)
        except AnswerError as error:
            return Judgment(None, answer=error.answer, error=error)
        return Judgment(mean(dimensions), dimensions, outcome.text)

    def _dimensions(self, answer: Answer) -> dict[str, float]:
        if self.template.kind != YES_NO:
            return read_scores(self.template, answer)
        word, other = self.template.labels
        if answer.probability is None:
            raise AnswerError(answer.text, f"it begins with neither {word!r} nor {other!r}")
        return {word: answer.probability}


def _ahead(take: Callable[[], list[T]]) -> Iterator[list[T]]:
    """Yield what ``take`` returns until it returns nothing; a thread calls it one step ahead."""
    reader = ThreadPoolExecutor(1, "judge-read")
    try:
        following = reader.submit(take)
        while items := following.result():
            following = reader.submit(take)
            yield items
    finally:
        # Without waiting: the garbage collector may end this generator in any thread that holds any lock.
        reader.shutdown(wait=False, cancel_futures=True)


def scores_tensor(judgments: Iterable[Judgment]) -> Tensor:
    """Return the scores (N,) of judgments, float32. Raises the first error."""
    scores = []
    for judgment in judgments:
        if judgment.error is not None:
            raise judgment.error
        scores.append(judgment.score)
    return torch.tensor(scores, dtype=torch.float32)
