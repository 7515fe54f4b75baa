"""Decoding of text in an unknown encoding: UTF-8 or UTF-16, otherwise an error.

Legacy code pages (cp1252, Shift-JIS, GBK) cannot be distinguished reliably, and a wrong guess would be scored
as the prompt. In metadata, bytes that cannot be decoded become lone surrogates, so that they can be written
back unchanged; `is_decoded` detects them.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, because it begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LOOKED_AT = 2**20  # number of characters checked to detect UTF-16 without a mark
_NOT_TEXT = re.compile("[\ud800-\udfff\ufffd\0]")
# No Latin-1 language has four accented letters in a row. Control characters of Latin-1 are quotes of cp1252.
_NOT_LATIN_1 = re.compile(rb"[\x80-\x9f]|[\x80-\xff]{4}")


class UnknownEncodingError(ValueError):
    """Bytes that are neither UTF-8 nor recognizable UTF-16 or UTF-32."""


def decode_text(data: bytes) -> str:
    """Return the text of a file: UTF-8 or UTF-16, with or without a byte order mark.

    Raises:
        UnknownEncodingError: another encoding, or text that a wrong encoding has already damaged.
    """
    encoding = encoding_of(data)
    if encoding is None:
        raise UnknownEncodingError("it is not UTF-8. Save it as UTF-8")
    text = decode_leniently(data, encoding)
    if not is_decoded(text):
        raise UnknownEncodingError("it has replacement characters for lost text. Write the text again")
    return text


def encoding_of(data: bytes) -> str | None:
    """Return the encoding: UTF-8, UTF-16 or UTF-32, or None if it is unknown."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return encoding if _decodes(data, encoding) else None
    content = data.rstrip(b"\0")
    if content.isascii() and b"\0" not in content and len(data) != 2:
        return "utf-8"
    if b"\0" in content or (content != data and len(data) == 2):
        return _utf16_by_zeros(data)
    return "utf-8" if _decodes(content, "utf-8") else None


def latin1_or_utf8(data: bytes) -> str:
    """Return the encoding of a PNG text: Latin-1 by the standard, often UTF-8."""
    encoding = encoding_of(data)
    return encoding or ("utf-8" if _NOT_LATIN_1.search(data) else "latin-1")


def japanese_encoding(data: bytes) -> str:
    """Return the encoding of a text labeled as JIS."""
    if b"\x1b" in data and _decodes(data, "iso2022_jp"):
        return "iso2022_jp"
    if encoding := encoding_of(data):
        return encoding
    possible = [name for name in ("cp932", "euc_jp") if _decodes(data, name)]
    return possible[0] if len(possible) == 1 else "utf-8"


def decode_leniently(data: bytes, encoding: str | None = None) -> str:
    """Return the text without byte order mark and padding.

    Bytes that cannot be decoded become lone surrogates.

    Args:
        data: the bytes.
        encoding: None for the detected encoding, or UTF-8 if it is unknown.
    """
    encoding = encoding or encoding_of(data) or "utf-8"
    if encoding.startswith("utf-16"):
        data = data[: len(data) // 2 * 2]
    text = data.decode(encoding, _handler(encoding))
    return text.removeprefix("\ufeff").rstrip("\0")


def encode_leniently(text: str, encoding: str) -> bytes:
    """Return the bytes of a text from `decode_leniently`."""
    return text.encode(encoding, _handler(encoding))


def is_decoded(text: str) -> bool:
    """Return whether a text has neither undecodable bytes nor replacement characters."""
    return _NOT_TEXT.search(text) is None


def _handler(encoding: str) -> str:
    return "surrogatepass" if encoding.startswith("utf-16") else "surrogateescape"


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _utf16_by_zeros(data: bytes) -> str | None:
    """Detect UTF-16 without a mark by the zero bytes of its ASCII letters and spaces."""
    even, odd = data[0::2].count(0), data[1::2].count(0)
    if max(even, odd) < 4 * min(even, odd) or even == odd:
        return None
    encoding = "utf-16-le" if odd > even else "utf-16-be"
    if len(data) % 2 or not _decodes(data, encoding):
        return None
    text = data.decode(encoding).rstrip("\0")
    start = text[:_LOOKED_AT]
    strange = any(unicodedata.category(c) in ("Cc", "Cn", "Co") and c not in "\t\n\r" for c in start)
    return None if strange else encoding
