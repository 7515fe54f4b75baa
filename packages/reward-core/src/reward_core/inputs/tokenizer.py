"""Tokenizing of prompts with BERT's uncased WordPiece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import BertWordPieceTokenizer, Encoding, Tokenizer
from torch import Tensor

from ..errors import CheckpointError, EmptyPromptWarning, InputError, PromptTruncatedWarning, PromptTypeError
from ..files.foreign_bytes import guarded, read_regular, reason
from ..files.limits import MAX_PROMPT_CHARACTERS
from ..runs.caller_warning import quoted, warn_caller
from .tokenizer_file import MAX_TOKENIZER_BYTES, read_tokenizer

# Tokens that BLIP adds to BERT's. Their ids follow the vocabulary in this order.
EXTRA_TOKENS = ("[DEC]", "[ENC]")
# WordPiece turns words with more characters into one [UNK].
LONGEST_WORD = 100
# Number of characters that are tokenized first, per token that the model reads.
CHARACTERS_A_TOKEN = 100
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class PromptTokenizer:
    """A tokenizer of prompts for a model.

    Args:
        tokenizer: a fast tokenizer that adds [CLS] and [SEP].
        max_length: largest number of tokens per prompt, including [CLS] and [SEP]; the rest is cut off.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int = 35):
        self.fast_tokenizer = tokenizer
        self.max_length = max_length
        tokenizer.no_truncation()
        tokenizer.no_padding()

    @classmethod
    def from_file(cls, path: Path, max_length: int = 35) -> PromptTokenizer:
        """Load a tokenizer.json or, with any other suffix, a vocab.txt."""
        if path.suffix != ".json":
            return cls.from_vocab(path, max_length)
        fast = read_tokenizer(path, "WordPiece", ("[CLS]", "[SEP]"))
        fast.add_special_tokens(list(EXTRA_TOKENS))  # missing in BERT's tokenizer.json
        return cls(fast, max_length)

    @classmethod
    def from_vocab(cls, vocab: Path, max_length: int = 35) -> PromptTokenizer:
        """Load a WordPiece vocabulary with one token per line, and add [DEC] and [ENC]."""
        with guarded(
            lambda error: CheckpointError(f"Cannot read a vocabulary from '{vocab}': {reason(error)}.")
        ):
            lines = read_regular(vocab, MAX_TOKENIZER_BYTES).decode("utf-8").split("\n")
        tokens = [line.rstrip("\r") for line in lines]
        if tokens and not tokens[-1]:
            tokens.pop()
        if absent := [t for t in SPECIAL_TOKENS if t not in tokens]:
            raise CheckpointError(f"Cannot use '{vocab}' as BERT vocabulary: tokens {absent} are missing.")
        fast = BertWordPieceTokenizer(
            vocab={token: i for i, token in enumerate(tokens)}, lowercase=True
        )._tokenizer
        fast.add_special_tokens([*SPECIAL_TOKENS, *EXTRA_TOKENS])
        return cls(fast, max_length)

    def to_text(self) -> str:
        """Return everything that token ids depend on, for digests."""
        return self.fast_tokenizer.to_str()

    def save(self, folder: Path) -> None:
        """Write tokenizer files for this class and transformers' AutoTokenizer."""
        from transformers import PreTrainedTokenizerFast

        names = zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL_TOKENS)
        PreTrainedTokenizerFast(
            tokenizer_object=self.fast_tokenizer,
            model_max_length=self.max_length,
            additional_special_tokens=list(EXTRA_TOKENS),
            **dict(names),
        ).save_pretrained(folder)

    def __call__(
        self, prompts: Sequence[str], length: int | None = None, warn: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Tokenize a batch.

        Args:
            prompts: B strings.
            length: number of tokens to pad to. None pads to the longest prompt, which is faster and gives the
                same rewards, because padding is masked.
            warn: whether to warn about empty prompts and prompts that are cut.

        Returns:
            token ids (B, L) and mask (B, L), both int64; the mask is 1 at tokens, 0 at padding.

        Warns:
            PromptTruncatedWarning: once per call, with the words that were cut off.
        """
        check_prompts(prompts)
        encodings = self._encode(prompts)
        ids = [self._cut(e.ids) for e in encodings]
        if warn:
            self._warn_of_cuts(prompts, encodings)
        if warn and any(not p.strip() for p in prompts):
            warn_caller("empty prompt: the score depends on the image alone", EmptyPromptWarning)
        return padded(ids, length)

    def dropped_words(self, prompt: str) -> str:
        """Return the end of the prompt that the model does not read ("" if it reads all)."""
        check_prompts([prompt])
        return self._dropped(prompt, self._encode([prompt])[0])

    def _encode(self, prompts: Sequence[str]) -> list[Encoding]:
        """Tokenize as much of each prompt as the model reads."""
        first = self.max_length * CHARACTERS_A_TOKEN
        encodings = self.fast_tokenizer.encode_batch([_beginning(prompt, first) for prompt in prompts])
        for i, prompt in enumerate(prompts):
            length = first
            while len(prompt) > length and not self._is_enough(encodings[i], length):
                if length >= MAX_PROMPT_CHARACTERS.value:
                    break
                length = min(4 * length, MAX_PROMPT_CHARACTERS.value)
                encodings[i] = self.fast_tokenizer.encode(_beginning(prompt, length))
        return encodings

    def _is_enough(self, encoding: Encoding, length: int) -> bool:
        """Return whether the model's tokens end far before the cut at ``length``."""
        count = self.max_length
        return len(encoding.ids) > count + 1 and encoding.offsets[count][1] <= length - 2 * LONGEST_WORD

    def _cut(self, ids: list[int]) -> list[int]:
        return ids if len(ids) <= self.max_length else [*ids[: self.max_length - 1], ids[-1]]

    def _dropped(self, prompt: str, encoding: Encoding) -> str:
        if len(encoding.ids) <= self.max_length:
            return prompt[MAX_PROMPT_CHARACTERS.value :].strip()
        first = self.max_length - 1
        while encoding.word_ids[first - 1] == encoding.word_ids[first]:  # report whole words
            first -= 1
        return prompt[encoding.offsets[first][0] :].strip()

    def _warn_of_cuts(self, prompts: Sequence[str], encodings) -> None:
        cut = {p: d for p, e in zip(prompts, encodings) if (d := self._dropped(p, e))}
        if cut:
            (prompt, dropped), others = next(iter(cut.items())), len(cut) - 1
            more = f" (and {others} more prompts)" if others else ""
            quotes = f"{quoted(dropped)} of {quoted(prompt)}"
            message = f"prompt cut at {self.max_length} tokens, ignoring {quotes}{more}"
            warn_caller(message, PromptTruncatedWarning)


def _beginning(prompt: str, length: int) -> str:
    """Return the first ``length`` characters of a prompt, or fewer to end at a word."""
    if len(prompt) <= length:
        return prompt
    start = prompt[:length]
    end = max(start.rfind(space, length - LONGEST_WORD) for space in " \n")
    return start if end < 0 else start[:end]


def padded(ids: Sequence[Sequence[int]], length: int | None = None) -> tuple[Tensor, Tensor]:
    """Return token ids and mask (P, L), both int64, of P sequences that are padded on the right with 0.

    Args:
        ids: token ids of each prompt.
        length: L; None for the longest sequence.
    """
    width = length or max(map(len, ids))
    rows = [[*sequence, *[0] * (width - len(sequence))] for sequence in ids]
    lengths = torch.tensor([len(sequence) for sequence in ids])
    return torch.tensor(rows, dtype=torch.int64), (torch.arange(width) < lengths[:, None]).long()


def check_prompts(prompts: Sequence[str]) -> None:
    """Raise unless ``prompts`` is a non-empty sequence of strings."""
    if isinstance(prompts, str):
        raise PromptTypeError("Cannot use the prompts: expected a list, got one string. Wrap it in a list.")
    if isinstance(prompts, bytes) or not hasattr(prompts, "__len__"):
        raise PromptTypeError(f"Cannot use the prompts: expected a list, got {type(prompts).__name__}.")
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise PromptTypeError(
                f"Cannot use prompt {i}: it must be a string, got {type(prompt).__name__}: {prompt!r:.80}."
            )
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"Cannot use prompt {i}: it contains half a character (a lone surrogate): {prompt!r:.80}."
            ) from error
    if not len(prompts):
        raise InputError("Cannot use the prompts: no prompts given.")
