"""Read a SentencePiece model (spiece.model) without the package sentencepiece.

The file is a protocol buffer. Only the fields that change token ids are read. Source of the field numbers:
sentencepiece_model.proto of SentencePiece.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import CheckpointError
from ...files.foreign_bytes import guarded, read_regular, reason
from ...inputs.tokenizer_file import MAX_TOKENIZER_BYTES

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # types of pieces; T5 has no unused (5) or byte (6)
_KINDS = {NORMAL, UNKNOWN, CONTROL, USER_DEFINED}
_UNIGRAM = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


@dataclass(frozen=True)
class SpieceModel:
    """The contents of a spiece.model.

    Attributes:
        pieces: text of each id.
        scores: log probability of each id, float32 values.
        kinds: type of each id: NORMAL, UNKNOWN, CONTROL or USER_DEFINED.
        charsmap: precompiled rules of the normalizer; empty for none.
        add_dummy_prefix: whether a blank is added before every text.
        remove_extra_whitespaces: whether blanks at the ends and double blanks are removed.
    """

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[int, ...]
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True


def read_spiece(path: Path) -> SpieceModel:
    """Return the contents of a spiece.model.

    Raises:
        CheckpointError: a file that is missing, damaged, or not a unigram model of the kind that T5 uses.
    """

    def refused(error: BaseException) -> CheckpointError:
        return CheckpointError(f"Cannot use '{path}' as a SentencePiece model: {reason(error)}.")

    with guarded(refused):
        return _parse(read_regular(path, MAX_TOKENIZER_BYTES))


def _parse(content: bytes) -> SpieceModel:
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(content):
        if number == 1:
            pieces.append(_piece(_as_bytes(value)))
        elif number == 2:
            trainer = dict(_fields(_as_bytes(value)))
        elif number == 3:
            normalizer = dict(_fields(_as_bytes(value)))
    if trainer.get(3, _UNIGRAM) != _UNIGRAM:
        raise ValueError("it is not a unigram model")
    if trainer.get(24) or normalizer.get(5) == 0:
        raise ValueError("blanks at the end of words, or blanks that are not escaped, are not supported")
    kinds = [kind for _, _, kind in pieces]
    if kinds.count(UNKNOWN) != 1 or NORMAL not in kinds or set(kinds) - _KINDS:
        raise ValueError("it needs one piece for unknown text, and other types of pieces are not supported")
    texts, scores, _ = zip(*pieces)
    return SpieceModel(
        texts,
        scores,
        tuple(kinds),
        _as_bytes(normalizer.get(2, b"")),
        normalizer.get(3, 1) != 0,
        normalizer.get(4, 1) != 0,
    )


def _piece(content: bytes) -> tuple[str, float, int]:
    fields = dict(_fields(content))
    text = _as_bytes(fields.get(1, b"")).decode()
    score = struct.unpack("<f", _as_bytes(fields.get(2, bytes(4))))[0]
    kind = fields.get(3, NORMAL)
    if not text or score != score or not isinstance(kind, int):
        raise ValueError("a piece has no text or score")
    return text, score, kind


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a message: an int for a varint, otherwise bytes."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        kind = key & 7
        if kind == _VARINT:
            value, position = _varint(content, position)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, position = _varint(content, position)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}[kind]
        if position + size > len(content):
            raise ValueError("it is truncated")
        yield key >> 3, content[position : position + size]
        position += size


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Return a number of 7 bits a byte, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("it is damaged")


def _as_bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("it is damaged")
    return value
