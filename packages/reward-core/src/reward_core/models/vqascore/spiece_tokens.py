"""Texts to SentencePiece tokens: normalize, then find the most probable pieces.

The results are those of the package sentencepiece, also where two segmentations are equally probable: scores
are added in the same order and rounded to float32 at the same steps. transformers no longer has the tokenizer
that the published scores were made with, and a fast tokenizer differs from it in rare characters.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .spiece_file import NORMAL, UNKNOWN, USER_DEFINED, SpieceModel

BLANK = "\u2581"  # stands for a blank in pieces
_UNKNOWN_PENALTY = 10.0  # an unknown character costs this much more than the least probable piece
_OWN_PENALTY = 0.1  # of pieces that the model's trainer defined
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Token:
    """A piece of a text: its id, and its characters in the normalized text."""

    id: int
    text: str


class SpieceTokenizer:
    """The unigram tokenizer (arXiv 1804.10959) of a SentencePiece model."""

    def __init__(self, model: SpieceModel) -> None:
        self.model = model
        kinds = dict(enumerate(model.kinds))
        normal = [i for i, kind in kinds.items() if kind == NORMAL]
        own = [i for i, kind in kinds.items() if kind == USER_DEFINED]
        self.rules = NormalizerRules(model.charsmap, [model.pieces[i] for i in own])
        self.ids = {model.pieces[i]: i for i in [*normal, *own]}
        self.scores = dict(enumerate(model.scores))
        # sentencepiece starts from the smallest positive number, so this is the highest score of a piece only
        # if one is positive.
        highest = np.float32(max([_SMALLEST, *(model.scores[i] for i in normal)]))
        for i in own:
            size = np.float32(len(model.pieces[i].encode()))
            self.scores[i] = float(size * highest) - _OWN_PENALTY
        self.longest = max(map(len, self.ids))
        self.unknown = model.kinds.index(UNKNOWN)
        lowest = np.float32(min(model.scores[i] for i in normal))
        self.unknown_score = float(lowest - np.float32(_UNKNOWN_PENALTY))

    def __call__(self, text: str) -> list[Token]:
        """Return the tokens of a text, without an end token. A run of unknown characters is one token."""
        return self.tokens(self.normalized(text))

    def normalized(self, text: str) -> str:
        """Return a text after the rules for characters and blanks, with BLANK for a blank."""
        parts = self.rules.replaced(text)
        trim = self.model.remove_extra_whitespaces
        if trim:
            start = next((i for i, part in enumerate(parts) if part != " "), len(parts))
            parts = parts[start:]
        if not parts:
            return ""
        result = [" "] if self.model.add_dummy_prefix else []
        after_blank = trim
        for part in parts:
            kept = part.lstrip(" ") if after_blank else part
            if kept:
                result.append(kept)
                after_blank = trim and kept.endswith(" ")
        joined = "".join(result)
        return (joined.rstrip(" ") if trim else joined).replace(" ", BLANK)

    def tokens(self, text: str) -> list[Token]:
        """Return the most probable tokens of a normalized text."""
        size = len(text)
        best: list[float | None] = [0.0, *[None] * size]  # score of the best path to each position
        starts, ids = [0] * (size + 1), [self.unknown] * (size + 1)  # of the last token on that path

        def offer(start: int, end: int, token: int, score: float) -> None:
            # The sum has 64 bits and is rounded to 32 when it is stored, as in sentencepiece.
            known, total = best[end], score + (best[start] or 0.0)
            if known is None or total > known:
                best[end], starts[end], ids[end] = float(np.float32(total)), start, token

        for start in range(size):
            for end in range(start + 1, min(start + self.longest, size) + 1):
                token = self.ids.get(text[start:end])
                if token is not None:
                    offer(start, end, token, self.scores[token])
            if text[start] not in self.ids:
                offer(start, start + 1, self.unknown, self.unknown_score)
        found: list[Token] = []
        end = size
        while end > 0:
            start, token = starts[end], ids[end]
            if found and token == self.unknown == found[-1].id:
                found[-1] = Token(token, text[start:end] + found[-1].text)
            else:
                found.append(Token(token, text[start:end]))
            end = start
        return found[::-1]


class NormalizerRules:
    """The replacements of characters in a SentencePiece model: the longest match is replaced.

    The rules are a double-array trie of UTF-8 (the format of darts-clone), then the replacements, each ended
    by a zero.

    Args:
        charsmap: the precompiled rules; empty for none.
        fixed: texts that are never changed.

    Raises:
        ValueError: the rules are damaged.
    """

    def __init__(self, charsmap: bytes, fixed: Sequence[str] = ()) -> None:
        self.fixed = sorted((text.encode() for text in fixed), key=len, reverse=True)
        size = int.from_bytes(charsmap[:4], "little")
        if charsmap and (size % 4 or not 4 <= size < len(charsmap) - 4):
            raise ValueError("its rules for characters are damaged")
        self.units = array("I", np.frombuffer(charsmap[4 : 4 + size], "<u4").tolist())
        self.replacements = charsmap[4 + size :]

    def replaced(self, text: str) -> list[str]:
        """Return a text in parts: replaced characters, and others one by one."""
        content, parts, position = text.encode(), [], 0
        while position < len(content):
            fixed = next((one for one in self.fixed if content.startswith(one, position)), b"")
            length, value = (0, 0) if fixed or not self.units else self._longest(content, position)
            if length:
                stop = self.replacements.index(b"\0", value)
                part = self.replacements[value:stop]
            else:
                length = len(fixed) or _character_length(content[position])
                part = content[position : position + length]
            parts.append(part.decode())
            position += length
        return parts

    def _longest(self, content: bytes, position: int) -> tuple[int, int]:
        """Return length and replacement of the longest rule at a position; length 0 if there is none."""
        units = self.units
        unit = units[0]
        node, found = _offset(unit), (0, 0)
        for i in range(position, len(content)):
            node ^= content[i]
            unit = units[node] if node < len(units) else 0
            if unit & 0x800000FF != content[i]:
                break
            node ^= _offset(unit)
            if unit >> 8 & 1:  # a rule ends here
                found = (i + 1 - position, units[node] & 0x7FFFFFFF)
        return found


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 0x200) >> 6)


def _character_length(first: int) -> int:
    """Return the number of bytes of a UTF-8 character from its first byte."""
    return 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
