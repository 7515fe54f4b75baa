"""Questions as token ids of Llama 3, and the ids of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from ...errors import CheckpointError, InputError
from ...files.limits import MAX_PROMPT_TEXT
from ...inputs.tokenizer import check_prompts
from ...inputs.tokenizer_file import read_tokenizer

BEFORE, AFTER = "Question: ", " Short answer:"
# The authors stop at 3328 tokens, of which an image takes 2307 and an answer 2.
MAX_QUESTION_TOKENS = 1000


@dataclass(frozen=True)
class AnswerTokens:
    """Ids of the tokens in prefixes and answers. The defaults are those of Llama 3.

    Attributes:
        begin_of_text: first token of every prefix.
        end_of_text: last token of a complete answer. What the files of a tokenizer call its "eos" has no
            effect: files of Llama 3 name another token since May 2024, which the model was not trained on.
        yes, space_yes: "yes" without and with a space before it.
        no, space_no: "no" without and with a space before it.
    """

    begin_of_text: int = 128000
    end_of_text: int = 128001
    yes: int = 9891
    space_yes: int = 10035
    no: int = 2201
    space_no: int = 912

    @property
    def yeses(self) -> tuple[int, int]:
        """Both first tokens of a positive answer."""
        return self.yes, self.space_yes


LLAMA3_VOCABULARY = 128256


class QuestionTokenizer:
    """A tokenizer of questions within the prompt that the model was trained on.

    Special tokens in a question are tokenized as ordinary text.

    Args:
        tokenizer: a tokenizer of Llama 3's form.
        vocab_size: number of embeddings of the model.
        source: path of the tokenizer in errors.

    Attributes:
        tokens: ids of the tokens in prefixes and answers.

    Raises:
        CheckpointError: a tokenizer without single tokens for the answers, or of another model.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, source: str):
        if tokenizer.get_vocab_size() > vocab_size:
            raise CheckpointError(
                f"Cannot use the tokenizer '{source}': it has {tokenizer.get_vocab_size():,} tokens, the "
                f"model has {vocab_size:,}."
            )
        self.tokens = _answer_tokens(tokenizer, source)
        if vocab_size == LLAMA3_VOCABULARY and self.tokens != AnswerTokens():
            raise CheckpointError(
                f"Cannot use the tokenizer '{source}': expected Llama 3's {AnswerTokens()}, got "
                f"{self.tokens}."
            )
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.encode_special_tokens = True

    @classmethod
    def from_file(cls, path: Path, vocab_size: int) -> QuestionTokenizer:
        """Load a tokenizer.json.

        Raises:
            CheckpointError: a file that cannot be used.
        """
        return cls(read_tokenizer(path, "BPE"), vocab_size, str(path))

    def __call__(self, questions: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each question with the text around it.

        Raises:
            InputError: no questions, an empty or a very long one.
            PromptTypeError: not a list of strings.
        """
        check_prompts(questions)
        for i, question in enumerate(questions):
            if not question.strip():
                raise InputError(f"Cannot ask question {i}: it is empty.")
            if len(question) > MAX_PROMPT_TEXT.value:
                raise InputError(
                    f"Cannot ask question {i}: it has {len(question):,} characters, at most "
                    f"{MAX_PROMPT_TEXT.value:,} are supported."
                )
        texts = [BEFORE + question + AFTER for question in questions]
        ids = [row.ids for row in self.tokenizer.encode_batch(texts, add_special_tokens=False)]
        for i, row in enumerate(ids):
            if len(row) > MAX_QUESTION_TOKENS:
                raise InputError(
                    f"Cannot ask question {i}: it has {len(row):,} tokens, at most {MAX_QUESTION_TOKENS:,} "
                    "are supported. Shorten it."
                )
        return ids


def _answer_tokens(tokenizer: Tokenizer, source: str) -> AnswerTokens:
    def special(text: str) -> int:
        found = tokenizer.token_to_id(text)
        if found is None:
            raise CheckpointError(f"Cannot use the tokenizer '{source}': the token {text} is missing.")
        return found

    def single(text: str) -> int:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) != 1:
            raise CheckpointError(
                f"Cannot use the tokenizer '{source}': {text!r} must be one token, it is {len(ids)}."
            )
        return ids[0]

    return AnswerTokens(
        begin_of_text=special("<|begin_of_text|>"),
        end_of_text=special("<|end_of_text|>"),
        yes=single("yes"),
        space_yes=single(" yes"),
        no=single("no"),
        space_no=single(" no"),
    )
