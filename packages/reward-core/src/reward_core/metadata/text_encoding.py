"""Text from bytes whose encoding nothing names: UTF-8 or UTF-16, and an error for the rest.

Legacy code pages (cp1252, Shift-JIS, GBK) cannot be distinguished with certainty, and a wrong guess would be
scored as if it were the prompt. Metadata keeps bytes it cannot decode as lone surrogates, so that they can be
written back unchanged; `is_decoded` finds them.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LOOKED_AT = 2**20  # characters of a text without a mark that show whether it is UTF-16
_NOT_TEXT = re.compile("[\ud800-\udfff\ufffd\0]")
# No language in Latin-1 has four accented letters in a row; its control characters are cp1252's quotes.
_NOT_LATIN_1 = re.compile(rb"[\x80-\x9f]|[\x80-\xff]{4}")


class UnknownEncodingError(ValueError):
    """Bytes that are neither UTF-8 nor recognizable UTF-16 or UTF-32."""


def decode_text(data: bytes) -> str:
    """Return the text of a file: UTF-8 or UTF-16, with or without a byte order mark.

    Raises:
        UnknownEncodingError: another encoding, or text that was already damaged by a wrong one.
    """
    encoding = encoding_of(data)
    if encoding is None:
        raise UnknownEncodingError("it is not UTF-8. Save it as UTF-8")
    text = decode_leniently(data, encoding)
    if not is_decoded(text):
        raise UnknownEncodingError("it has replacement characters where text was lost. Write them again")
    return text


def encoding_of(data: bytes) -> str | None:
    """Return the name of the encoding: UTF-8, UTF-16 or UTF-32; None if it cannot be known."""
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
    """Return the encoding of a PNG text chunk, which should be Latin-1 but is often UTF-8."""
    encoding = encoding_of(data)
    return encoding or ("utf-8" if _NOT_LATIN_1.search(data) else "latin-1")


def japanese_encoding(data: bytes) -> str:
    """Return the encoding of a text that is labeled as JIS."""
    if b"\x1b" in data and _decodes(data, "iso2022_jp"):
        return "iso2022_jp"
    if encoding := encoding_of(data):
        return encoding
    possible = [name for name in ("cp932", "euc_jp") if _decodes(data, name)]
    return possible[0] if len(possible) == 1 else "utf-8"


def decode_leniently(data: bytes, encoding: str | None = None) -> str:
    """Return the text without byte order mark and padding; undecodable bytes become lone surrogates.

    Args:
        encoding: None takes `encoding_of`, or UTF-8 where that is unknown.
    """
    encoding = encoding or encoding_of(data) or "utf-8"
    if encoding.startswith("utf-16"):
        data = data[: len(data) // 2 * 2]
    text = data.decode(encoding, _handler(encoding))
    return text.removeprefix("\ufeff").rstrip("\0")


def encode_leniently(text: str, encoding: str) -> bytes:
    """Return the bytes of a text that `decode_leniently` read."""
    return text.encode(encoding, _handler(encoding))


def is_decoded(text: str) -> bool:
    """Whether a text holds no undecodable bytes and no replacement characters."""
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
    """UTF-16 without a mark: its ASCII letters and spaces have a zero byte on one side."""
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
