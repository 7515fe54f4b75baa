"""CogVLM2 as a model of yes/no questions about images.

Shapes: N images, B images of a batch, S side of the model's square, Q questions, A candidates for the first
token of a positive answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from PIL import Image
from torch import Tensor, nn

from ...errors import InputError
from ...inputs.image_file import ImageSource, open_image
from .answers import says_yes, yes_log_probability
from .image_transform import StretchTransform
from .network import CogVlm2
from .packing import pack_questions
from .prompts import QuestionTokenizer


class YesNoModel(nn.Module):
    """CogVLM2 with its tokenizer and image transform: answers yes/no questions about images.

    All questions about an image share one pass over the image, in any number and of any length. Answers do
    not depend on the other images of a batch. Every failure is an error, never the answer no.

    Args:
        network: the model with its weights.
        tokenizer: tokenizer of questions.
    """

    def __init__(self, network: CogVlm2, tokenizer: QuestionTokenizer):
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.transform = StretchTransform(network.config.image_size)

    @overload
    def answers(  # type: ignore[overload-overlap]  # a path is also a sequence of strings
        self, images: ImageSource, questions: Sequence[str], batch_size: int = 1
    ) -> list[bool]: ...

    @overload
    def answers(
        self, images: Sequence[ImageSource], questions: Sequence[str], batch_size: int = 1
    ) -> list[list[bool]]: ...

    def answers(
        self,
        images: ImageSource | Sequence[ImageSource],
        questions: Sequence[str],
        batch_size: int = 1,
    ) -> list[bool] | list[list[bool]]:
        """Return for each question whether the answer is exactly "yes".

        Args:
            images: a path or PIL image, or a list of them.
            questions: Q questions.
            batch_size: number of images in one pass. At full size in bfloat16 the keys and values of an image
                take 302 MB, and the vision tower about 1 GB more while it runs.

        Returns:
            Q answers for one image, a list of Q answers per image for a list.

        Raises:
            InputError: no images, or a question that cannot be asked.
            ImageError: an image that cannot be read.
            NonFiniteRewardError: logits that are NaN or infinite.
        """
        single = isinstance(images, (str, Image.Image)) or not isinstance(images, Sequence)
        sources: list = [images] if single else list(images)  # type: ignore[arg-type]
        if not sources or batch_size < 1:
            raise InputError(
                "Cannot answer questions: expected at least one image and a batch_size of 1 or more."
            )
        rows: list[list[bool]] = []
        for start in range(0, len(sources), batch_size):
            opened = [open_image(source) for source in sources[start : start + batch_size]]
            levels = torch.stack([self.transform.prepare(image) for image in opened])
            rows += self.answers_from_pixels(self.transform.finish(levels.to(self.network.device)), questions)
        return rows[0] if single else rows

    @torch.no_grad()
    def answers_from_pixels(self, pixels: Tensor, questions: Sequence[str]) -> list[list[bool]]:
        """Return the answers to Q questions for each image, given as normalized pixels (B, 3, S, S).

        Raises are those of ``answers``, and ValueError for the wrong shape.
        """
        return says_yes(self.logits(pixels, questions), self.tokenizer.tokens).tolist()

    def log_probabilities(self, images: Tensor, questions: Sequence[str]) -> Tensor:
        """Return log P(answer is "yes") (N, Q) of images (N, 3, H, W) in [0, 1], differentiably.

        Memory for the gradient at full size in bfloat16, by arithmetic: without gradient checkpointing about
        0.85 GB per layer of the vision tower and 0.6 GB per layer of the language model, 70 GB per image.
        With it (``network.set_gradient_checkpointing(True)``) 33 MB and 28 MB per layer, 3 GB per image, and
        2 GB more for the layer that is computed again. Weights are frozen by the loader; their gradients
        would need 39 GB more.

        Raises:
            NonFiniteRewardError: logits that are NaN or infinite.
        """
        return yes_log_probability(self.logits(self.transform(images), questions), self.tokenizer.tokens)

    def expected_answers(self, images: Tensor, questions: Sequence[str]) -> Tensor:
        """Return expected answers (N, Q) in [-1, 1], with yes = 1 and all else = -1, differentiably.

        It is the mean over answers sampled at temperature 1: 2 P(answer is "yes") - 1. Where the model is
        certain its gradient is small; that of ``log_probabilities`` is not, for answers that are not yes.
        """
        return 2 * self.log_probabilities(images, questions).exp() - 1

    def logits(self, pixels: Tensor, questions: Sequence[str]) -> Tensor:
        """Return logits (B, Q, 1 + A, V) after each question and after each candidate for its first token.

        Args:
            pixels: (B, 3, S, S), normalized.
            questions: Q questions.
        """
        tokens = self.tokenizer.tokens
        packed = pack_questions(self.tokenizer(questions), tokens.yeses)
        return self.network(self.network.encode_images(pixels, tokens.begin_of_text), packed)
