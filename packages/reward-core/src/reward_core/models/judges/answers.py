"""Questions to vision-language models, their answers, and the protocol of the models."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ...errors import RewardCoreError
from ...inputs.image_file import ImageSource, image_name, open_image, rgb_guard

JPEG_QUALITY = 95  # as in the authors' client of UnifiedReward; scores depend on it


@dataclass(frozen=True)
class Question:
    """A question about images.

    Attributes:
        text: the question, which comes after the images.
        images: JPEG files.
        max_tokens: longest answer in tokens.
        words: for questions that are answered by probability: the word whose probability is asked for, and
            the other one.
    """

    text: str
    images: tuple[bytes, ...]
    max_tokens: int
    words: tuple[str, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything that the answer depends on, besides the model."""
        digests = [hashlib.sha256(image).hexdigest() for image in self.images]
        words = None if self.words is None else list(self.words)
        return {"text": self.text, "images": digests, "max_tokens": self.max_tokens, "words": words}


@dataclass(frozen=True)
class Answer:
    """An answer of a model.

    Attributes:
        text: the text; for a question with words, the first token.
        complete: False if the answer was cut off at ``max_tokens``.
        probability: for a question with words: the probability of the first word, of the two; None if the
            answer begins with neither.
    """

    text: str
    complete: bool = True
    probability: float | None = None


Outcome: TypeAlias = "Answer | RewardCoreError"


class VLM(Protocol):
    """A vision-language model that answers questions.

    Attributes:
        identity: everything about the model that its answers depend on, as values for JSON.
        questions_at_once: number of questions that ``answers`` should receive in one call.
    """

    @property
    def identity(self) -> Mapping[str, Any]: ...

    @property
    def questions_at_once(self) -> int: ...

    def answers(self, questions: Sequence[Question], batch_size: int | None = None) -> Iterator[Outcome]:
        """Yield the answer of each question, in order, or the error of a question that failed.

        Raises:
            RewardCoreError: the model cannot answer any question.
        """


def jpeg_of(source: ImageSource) -> bytes:
    """Return an image as JPEG of its RGB pixels.

    Raises:
        ImageError: the image cannot be read.
    """
    image = open_image(source)
    file = io.BytesIO()
    with rgb_guard(image_name(source)):
        image.convert("RGB").save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def word_of(token: str) -> str:
    """Return a token as it is compared with the words of a question: without spaces, in lower case."""
    return token.strip().lower()
