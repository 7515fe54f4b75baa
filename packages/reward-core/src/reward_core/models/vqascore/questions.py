"""The question around a prompt, as token ids.

The wording is that of t2v_metrics and of LLaVA (both Apache-2.0, see NOTICE), which the published weights
were trained with.

Shapes: P prompts, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models
from torch import Tensor

from ...errors import CheckpointError, EmptyPromptWarning, InputError, PromptTruncatedWarning
from ...files.limits import MAX_PROMPT_TEXT
from ...inputs.tokenizer import PromptTokenizer, check_prompts, padded
from ...runs.caller_warning import quoted, warn_caller
from .spiece_file import CONTROL, SpieceModel, read_spiece
from .spiece_tokens import BLANK, SpieceTokenizer, Token

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions."
)
# The image is between HEAD and BEFORE.
HEAD = f"{SYSTEM} USER: "
BEFORE, AFTER = '\nDoes this figure show "', '"? Please answer yes or no. ASSISTANT: '
ANSWER = "Yes"

IMAGE_ID = -200  # stands for all tokens of the image
PAD, END = 0, 1
EXTRA_IDS = 100  # T5 has these tokens after those of spiece.model; no text contains them


class QuestionTokenizer(PromptTokenizer):
    """A tokenizer of the questions whether an image shows a prompt.

    The texts before and after the image are tokenized alone, and each gets an end token. Special tokens of
    T5 and ``<image>`` in a prompt are ordinary text. (In the authors' program ``<image>`` is a second image,
    which fails.)

    Args:
        spiece: the SentencePiece model of T5.
        max_length: largest number of tokens of a question; the rest is cut off, as in the authors' program.

    Attributes:
        image_index: index of the token that stands for the image, the same for all prompts.
        answer: token ids of the answer "Yes", the end token last.
    """

    def __init__(self, spiece: SpieceModel, max_length: int) -> None:
        # The vocabulary in the type that other code expects; it does not tokenize.
        pieces = {piece: i for i, piece in enumerate(spiece.pieces)}
        super().__init__(Tokenizer(models.WordLevel(pieces, spiece.pieces[PAD])), max_length)
        self.spiece = SpieceTokenizer(spiece)
        self.head = [*(token.id for token in self.spiece(HEAD)), END, IMAGE_ID]
        self.answer = [*(token.id for token in self.spiece(ANSWER)), END]

    @classmethod
    def from_file(cls, path: Path, max_length: int = 2048) -> QuestionTokenizer:
        """Load a spiece.model of T5.

        Raises:
            CheckpointError: the file cannot be used.
        """
        spiece = read_spiece(path)
        if spiece.kinds[PAD] != CONTROL or spiece.kinds[END] != CONTROL:
            raise CheckpointError(f"Cannot use '{path}': the first two pieces of T5 are padding and end.")
        return cls(spiece, max_length)

    @property
    def rows(self) -> int:
        """Number of embeddings that the authors keep."""
        return len(self.spiece.model.pieces) + EXTRA_IDS

    @property
    def image_index(self) -> int:
        return len(self.head) - 1

    def __call__(
        self, prompts: Sequence[str], length: int | None = None, warn: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return token ids and mask (P, L), both int64 and padded on the right.

        Args:
            prompts: P strings.
            length: number of tokens to pad to; None pads to the longest question.
            warn: whether to warn about empty prompts and prompts that are cut.

        Raises:
            InputError: a prompt of more than MAX_PROMPT_TEXT characters.

        Warns:
            PromptTruncatedWarning: once per call, with the words that were cut off.
        """
        check_prompts(prompts)
        if warn and any(not prompt.strip() for prompt in prompts):
            warn_caller("empty prompt: the score depends on the image alone", EmptyPromptWarning)
        questions = [self._question(prompt) for prompt in prompts]
        if warn:
            self._warn_of_long(prompts, questions)
        ids = [self._ids(question) for question in questions]
        return padded(ids, length)

    def dropped_words(self, prompt: str) -> str:
        """Return the end of the prompt that is cut off ("" if all is read), as the tokenizer reads it."""
        check_prompts([prompt])
        return self._unread(self._question(prompt))

    def to_text(self) -> str:
        """Return everything that token ids depend on."""
        return repr(self.spiece.model)

    def save(self, folder: Path) -> None:
        """Refuse: the scorer cannot be saved."""
        raise InputError("Cannot save this scorer. Copy the files that it was loaded from.")

    def _question(self, prompt: str) -> list[Token]:
        """Return the tokens after the image, without the end token."""
        text = self.spiece.normalized(BEFORE + prompt + AFTER)
        if len(text) > MAX_PROMPT_TEXT.value:
            raise InputError(
                f"Cannot score the prompt {quoted(prompt)}: it has {len(text):,} characters, more than "
                f"{MAX_PROMPT_TEXT.value:,} ({MAX_PROMPT_TEXT.advice})."
            )
        return self.spiece.tokens(text)

    def _ids(self, question: list[Token]) -> list[int]:
        return [*self.head, *(token.id for token in question), END][: self.max_length]

    def _unread(self, question: list[Token]) -> str:
        rest = question[max(0, self.max_length - len(self.head)) :]
        text = "".join(token.text for token in rest).replace(BLANK, " ")
        end = self.spiece.normalized(AFTER).lstrip(BLANK).replace(BLANK, " ")
        return text.removesuffix(end).strip() if text.endswith(end) else ""

    def _warn_of_long(self, prompts: Sequence[str], questions: list[list[Token]]) -> None:
        cut = [(p, q) for p, q in zip(prompts, questions) if len(self.head) + len(q) >= self.max_length]
        if not cut:
            return
        prompt, unread = cut[0][0], self._unread(cut[0][1])
        more = f" (and {len(cut) - 1} more prompts)" if len(cut) > 1 else ""
        ignored = f"{quoted(unread)} of" if unread else "the question after"
        warn_caller(
            f"prompt cut at {self.max_length} tokens, ignoring {ignored} {quoted(prompt)}{more}",
            PromptTruncatedWarning,
        )
