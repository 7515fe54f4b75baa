"""The text of a prompt as token ids: chat template, instruction, and the reward token at the end.

Letters in shape comments: P prompts, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from ...errors import CheckpointError, EmptyPromptWarning, InputError
from ...files.foreign_bytes import guarded, read_regular, reason
from ...files.json_file import read_json
from ...files.limits import MAX_PROMPT_TEXT
from ...inputs.tokenizer import PromptTokenizer, check_prompts, padded
from ...inputs.tokenizer_file import read_tokenizer
from ...runs.caller_warning import quoted, warn_caller
from ..checkpoint import MAX_CONFIG_BYTES
from .instructions import PROMPT_MARK, REWARD_TOKEN

IMAGE_TOKEN, END_OF_IMAGE = "<|image_pad|>", "<|vision_end|>"


class VlmTokenizer(PromptTokenizer):
    """A tokenizer of prompts within the instruction of a scorer.

    Token ids end with the reward token: the model does not look ahead, so what the authors write after it
    has no effect. One image token stands for all visual tokens of an image. Prompts are not cut.

    Special tokens in a prompt are tokenized as ordinary text. In the authors' program a prompt with
    ``<|Reward|>`` replaces the score, also of other pairs in the batch, and ``<|image_pad|>`` fails.

    Args:
        tokenizer: tokenizer of the base model, without the reward token.
        template: chat template of the base model.
        text: instruction with PROMPT_MARK.
        source: path of the template in errors.
        max_length: number of positions the base model was trained with.
    """

    def __init__(self, tokenizer: Tokenizer, template: str, text: str, source: str, max_length: int):
        super().__init__(tokenizer, max_length)
        self.rendered = _rendered(tokenizer, template, text, source)
        before, _, after = self.rendered.partition(PROMPT_MARK)
        head, self.before = _split_after(before, END_OF_IMAGE)
        self.after = after.partition(REWARD_TOKEN)[0]
        self.head = tokenizer.encode(head, add_special_tokens=False).ids
        self.image_id = _or_minus_one(tokenizer.token_to_id(IMAGE_TOKEN))
        parts = self.rendered.count(PROMPT_MARK), after.count(REWARD_TOKEN), self.head.count(self.image_id)
        if parts != (1, 1, 1):
            raise CheckpointError(
                f"Cannot use the chat template '{source}' with its tokenizer: the message must contain the "
                f"prompt, {REWARD_TOKEN} and {IMAGE_TOKEN} once each, got {parts}."
            )
        known = tokenizer.token_to_id(REWARD_TOKEN)
        self.reward_id = tokenizer.get_vocab_size() if known is None else known
        self.ordinary = Tokenizer.from_str(tokenizer.to_str())
        self.ordinary.encode_special_tokens = True

    @classmethod
    def from_files(cls, path: Path, template: Path, text: str, max_length: int) -> VlmTokenizer:
        """Load a tokenizer.json and a chat template (.jinja, or .json with the key "chat_template").

        Raises:
            CheckpointError: a file that cannot be used.
        """
        return cls(read_tokenizer(path, "BPE"), read_template(template), text, str(template), max_length)

    @property
    def rows(self) -> int:
        """Number of embeddings that the ids need."""
        return max(self.fast_tokenizer.get_vocab_size(), self.reward_id + 1)

    @property
    def image_index(self) -> int:
        """Index of the image token, the same for all prompts."""
        return self.head.index(self.image_id)

    def __call__(
        self, prompts: Sequence[str], length: int | None = None, warn: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return token ids and mask (P, L), both int64 and padded on the right.

        Args:
            prompts: P strings.
            length: number of tokens to pad to; None pads to the longest prompt.
            warn: whether to warn about empty prompts.

        Raises:
            InputError: a prompt of more than MAX_PROMPT_TEXT characters.
        """
        check_prompts(prompts)
        for prompt in prompts:
            _check_length(prompt)
        if warn and any(not prompt.strip() for prompt in prompts):
            warn_caller("empty prompt: the score depends on the image alone", EmptyPromptWarning)
        texts = [self.before + prompt + self.after for prompt in prompts]
        encodings = self.ordinary.encode_batch(texts, add_special_tokens=False)
        ids = [[*self.head, *encoding.ids, self.reward_id] for encoding in encodings]
        return padded(ids, length)

    def dropped_words(self, prompt: str) -> str:
        """Return "": prompts are not cut."""
        return ""

    def save(self, folder: Path) -> None:
        """Refuse: the scorer cannot be saved."""
        raise InputError("Cannot save this scorer. Copy the files that it was loaded from.")


def read_template(path: Path) -> str:
    """Return a chat template.

    Raises:
        CheckpointError: a file that cannot be read or has no template.
    """
    if path.suffix == ".json":
        content = read_json(path, MAX_CONFIG_BYTES)
        template = content.get("chat_template") if isinstance(content, dict) else None
        if not isinstance(template, str):
            raise CheckpointError(f"Cannot use '{path}': it has no text 'chat_template'.")
        return template

    def unreadable(error: BaseException) -> CheckpointError:
        return CheckpointError(f"Cannot read a chat template from '{path}': {reason(error)}.")

    with guarded(unreadable):
        return read_regular(path, MAX_CONFIG_BYTES).decode()


def _rendered(tokenizer: Tokenizer, template: str, text: str, source: str) -> str:
    """Return the message of a user with an image and a text, in the format of the base model."""
    from transformers import PreTrainedTokenizerFast

    content: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": text}]
    with guarded(lambda error: CheckpointError(f"Cannot use the chat template '{source}': {reason(error)}.")):
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
        message = [{"role": "user", "content": content}]
        return str(
            fast.apply_chat_template(
                message, chat_template=template, tokenize=False, add_generation_prompt=True
            )
        )


def _or_minus_one(token_id: int | None) -> int:
    return -1 if token_id is None else token_id


def _split_after(text: str, end: str) -> tuple[str, str]:
    """Return the text up to the last ``end``, with it, and the rest."""
    start, found, rest = text.rpartition(end)
    return start + found, rest


def _check_length(prompt: str) -> None:
    if len(prompt) > MAX_PROMPT_TEXT.value:
        raise InputError(
            f"Cannot score the prompt {quoted(prompt)}: it has {len(prompt):,} characters, more than "
            f"{MAX_PROMPT_TEXT.value:,} ({MAX_PROMPT_TEXT.advice})."
        )
