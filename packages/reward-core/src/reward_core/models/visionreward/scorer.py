"""The scorer that sums weighted answers to a checklist of yes/no questions.

Shapes: B images, P prompts, Q questions, F image features of the alignment model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, cast, overload

import torch
from torch import Tensor, nn

from ...errors import InputError, NonFiniteRewardError
from ...inputs.image_file import ImageSource
from ...inputs.image_transform import ImageTransform
from ...inputs.pixel_range import refuse_levels
from ...scoring.batching import in_batches
from ...scoring.features import ImageFeatures, PromptFeatures
from ...scoring.scoring_methods import as_list
from ...scoring.scoring_model import ScoringModel
from .answer_rows import joined, split
from .checklist import Checklist, ChecklistQuestion
from .checklist_score import contributions
from .explanation import Explanation, explain_answers
from .transform import JoinedTransform
from .unread_prompts import UnreadPrompts
from .vlm import ChecklistVLM

# Images whose questions are answered in one pass. At full size in bfloat16 one takes 0.3 GB for keys and
# values, and 1 GB more in the vision tower.
_IMAGES_AT_ONCE = {"cpu": 2, "cuda": 4}


class ChecklistReward(ScoringModel):
    """A reward that is a weighted checklist (arXiv 2412.21059).

    A vision-language model answers each question about the image with yes or no, and another model says how
    well the image shows the prompt. `Checklist` and `checklist_score` define the score.

    Image features are the answers, and the features that the alignment model has of the image: the answers
    are computed once for all prompts. A question without an answer is an error of its image, which names the
    question; it never counts as no.

    Args:
        vlm: the vision-language model.
        checklist: questions and weights.
        alignment: scoring model for how well an image shows a prompt, such as VQAScore; None if
            ``checklist.alignment_weight`` is 0.

    Raises:
        InputError: a checklist with an alignment weight, and no alignment model.
    """

    resize_on_device = False
    vlm: Any  # a ChecklistVLM, which is a module

    def __init__(
        self, vlm: ChecklistVLM, checklist: Checklist, alignment: ScoringModel | None = None
    ) -> None:
        super().__init__()
        if checklist.alignment_weight and alignment is None:
            raise InputError(
                f"Cannot use the checklist {checklist.name!r} without an alignment model: the alignment has "
                f"weight {checklist.alignment_weight:g}. Give one, such as load('VQAScore')."
            )
        self.vlm, self.config = cast(nn.Module, vlm), checklist
        self.alignment = alignment if checklist.alignment_weight else None
        self.tokenizer = UnreadPrompts() if self.alignment is None else self.alignment.tokenizer
        others: list[ImageTransform] = [] if self.alignment is None else [self.alignment.transform]
        self.transform = JoinedTransform([vlm.transform, *others])

    @property
    def checklist(self) -> Checklist:
        """Questions and weights."""
        return cast(Checklist, self.config)

    @property
    def texts(self) -> list[str]:
        """The questions of the checklist.

        Raises:
            InputError: they could not be downloaded when the scorer was loaded.
        """
        if not all(self.checklist.texts):
            raise InputError(
                f"Cannot ask the questions of {self.checklist.name!r}: their texts are missing. Copy "
                "VisionReward_image_qa_select.txt or a checklist.json to the folder of local files "
                "(docs/visionreward.md), and load the scorer again."
            )
        return self.checklist.texts

    # Scoring

    def encode_pixels(self, pixels: Any) -> Tensor:
        """Return answers and alignment features of B images, as `answer_rows.joined` puts them together.

        Args:
            pixels: the pixels for each model, as the transform returns them.
        """
        answers = self._answered(pixels[0], self.texts)
        if self.alignment is None:
            return answers
        return joined(answers, self.alignment.encode_pixels(pixels[1]))

    def refused_images(self, features: Tensor) -> dict[int, str]:
        return _unanswered(self._split(features)[0], self.texts)

    def mask_to_upload(self, mask: Tensor) -> Tensor | None:
        return mask if self.alignment is None else self.alignment.mask_to_upload(mask)

    def rewards_from_kv(self, features: Any, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return scores of image features with one or several consecutive prompts each."""
        answers, image_features = self._split(features)
        several = len(token_ids) // len(answers)
        alignment = answers.new_zeros(len(token_ids))
        if self.alignment is not None and image_features is not None:
            kv = self.alignment.project_kv(image_features)
            alignment = self.alignment.rewards_from_kv(kv, token_ids, mask)
        return self._scores(answers.repeat_interleave(several, dim=0), alignment)

    def rewards_from_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return expected scores (B,) of float images, differentiable with respect to the pixels.

        Each answer is replaced by its probability p of yes: a question adds weight * (2 p - 1), times the
        probability that its gate is open. That is the expectation of the score if the answers are drawn
        independently. Where the model is sure, it is the score.

        Args:
            pixels: (B, 3, H, W) in [0, 1].
            prompts: B strings.

        Raises:
            InputError: unequal numbers of images and prompts, or images on the CPU with levels 0 to 255.
        """
        refuse_levels(pixels)
        if len(pixels) != len(prompts):
            raise InputError(
                f"Cannot score the pairs: got {len(prompts)} prompts but {len(pixels)} images. "
                "Give one prompt for each image."
            )
        pixels = pixels.to(self.device)
        expected = (self.vlm.expected_answers(pixels, self.texts).double() + 1) / 2
        if self.alignment is None:
            return self._scores(expected, expected.new_zeros(len(expected)))
        return self._scores(expected, self.alignment.rewards_from_pixels(pixels, prompts))

    def feature_parameters(self) -> Iterator[nn.Parameter]:
        others: Iterable[nn.Parameter] = [] if self.alignment is None else self.alignment.feature_parameters()
        return chain(self.vlm.parameters(), others)

    @property
    def feature_dtype(self) -> torch.dtype:
        return torch.float32 if self.alignment is None else self.alignment.feature_dtype

    def _pairs(self, features: Tensor, prompts: PromptFeatures) -> Tensor:
        answers, image_features = self._split(features)
        if self.alignment is None or image_features is None:
            return self._scores(answers, answers.new_zeros(len(answers)))
        return self._scores(answers, self.alignment._pairs(image_features, prompts))

    def _matrix(self, features: Tensor, prompts: PromptFeatures) -> Tensor:
        answers, image_features = self._split(features)
        alignment = answers.new_zeros(len(answers), len(prompts))
        if self.alignment is not None and image_features is not None:
            alignment = self.alignment._matrix(image_features, prompts)
        return self._scores(answers[:, None].expand(-1, len(prompts), -1), alignment)

    def _scores(self, answers: Tensor, alignment: Tensor) -> Tensor:
        """Return scores (...,) float32 of answers (..., Q) and alignments (...,); computed in float64."""
        terms = contributions(answers, alignment, self.checklist)
        return (terms.sum(-1) + self.checklist.intercept).float()

    def _split(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return answers (B, Q) and alignment features (B, F, ...) of image features."""
        if self.alignment is None:
            return features, None
        return split(features, len(self.checklist.questions))

    # Answers and explanations

    @overload
    def answers(
        self, image: list[ImageSource], questions: Sequence[str] | None = None
    ) -> list[list[bool]]: ...

    @overload
    def answers(self, image: ImageSource, questions: Sequence[str] | None = None) -> list[bool]: ...

    def answers(self, image: Any, questions: Sequence[str] | None = None) -> Any:
        """Return the answers to yes/no questions about an image, or a list of them for a list of images.

        Args:
            image: a path, a PIL image, or a list of them.
            questions: the questions (default: those of the checklist).

        Raises:
            ImageError: an image that cannot be read, or a question without an answer.
            InputError: no question, or an empty one.
        """
        texts = self.texts if questions is None else _checked_questions(questions)
        images = as_list(image)
        several = isinstance(images, (list, tuple))
        asked = ChecklistReward(self.vlm, Checklist("questions", tuple(map(ChecklistQuestion, texts))))
        answered = asked.encode_images(images if several else [image]).data > 0.5
        return answered.tolist() if several else answered[0].tolist()

    @overload
    def explain(self, prompt: str, image: list[ImageSource] | ImageFeatures) -> list[Explanation]: ...

    @overload
    def explain(self, prompt: str, image: ImageSource) -> Explanation: ...

    def explain(self, prompt: str, image: Any) -> Any:
        """Return why an image has its score, or a list of explanations for several images.

        Args:
            prompt: the prompt.
            image: a path, a PIL image, a list of them, or the result of ``encode_images``.

        Raises:
            ImageError: an image that cannot be read, or a question without an answer.
        """
        images = as_list(image)
        several = isinstance(images, (list, tuple, ImageFeatures))
        if not isinstance(images, ImageFeatures):
            images = self.encode_images(images if several else [image])
        self._check_image_source(images)
        answers = (self._split(images.data)[0] > 0.5).tolist()
        alignments: list[Any] = [None] * len(answers)
        if self.alignment is not None:
            encoded = self.encode_prompts([prompt])
            alignments = self._computed(images, None, lambda part, _: self._aligned(part, encoded)).tolist()
        found = [explain_answers(*pair, self.checklist) for pair in zip(answers, alignments)]
        return found if several else found[0]

    def _aligned(self, features: Tensor, prompts: PromptFeatures) -> Tensor:
        """Return the alignment (B,) of B images with one prompt."""
        assert self.alignment is not None
        image_features = self._split(features)[1]
        assert image_features is not None
        return self.alignment._matrix(image_features, prompts)[:, 0]

    def _answered(self, pixels: Tensor, questions: Sequence[str]) -> Tensor:
        """Return the answers (B, Q) about B images, with NaN for those that are missing."""

        def compute(part: range) -> Tensor:
            some = pixels[part.start : part.stop]
            try:
                answers = self.vlm.answers_from_pixels(some, questions)
            except NonFiniteRewardError:  # find out which image and question it is
                answers = [self._answered_one_by_one(image[None], questions) for image in some]
            return torch.tensor(answers, dtype=torch.float32, device=self.device)

        size = _IMAGES_AT_ONCE.get(self.device.type, 2)
        return torch.cat(list(in_batches(compute, len(pixels), size, self.path().release_memory)))

    def _answered_one_by_one(self, pixels: Tensor, questions: Sequence[str]) -> list[float]:
        """Return the answers about one image, asked one by one, with NaN for those that are missing."""
        answers = []
        for question in questions:
            try:
                [[answer]] = self.vlm.answers_from_pixels(pixels, [question])
            except NonFiniteRewardError:
                answer = math.nan
            answers.append(float(answer))
        return answers


def _unanswered(answers: Tensor, questions: Sequence[str]) -> dict[int, str]:
    """Return the first question without an answer for each image that has one, by index."""
    missing = ~answers.isfinite()
    if not missing.any():
        return {}
    first = {row: int(missing[row].nonzero()[0]) for row in missing.any(1).nonzero().flatten().tolist()}
    return {
        row: f"the model has no answer to question {i + 1}, {questions[i]!r:.200}: its outputs are not finite"
        for row, i in first.items()
    }


def _checked_questions(questions: Sequence[str]) -> list[str]:
    """Return the questions as a list. Raises InputError unless they are texts."""
    if isinstance(questions, str) or not all(isinstance(text, str) and text.strip() for text in questions):
        raise InputError(f"Cannot ask {questions!r:.80}: expected a list of questions that are not empty.")
    if not questions:
        raise InputError("Cannot ask about the image: no questions given.")
    return list(questions)
