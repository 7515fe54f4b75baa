"""The text of a caption file, or why it cannot be read; never replacement characters."""

from __future__ import annotations

import codecs

#: Byte order marks, the longer ones first: that of UTF-32 begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode_caption(data: bytes) -> str:
    """Decode UTF-8, or UTF-16 and UTF-32 with a byte order mark; strip the white space around the text.

    Other encodings (Windows-1252, Shift-JIS, ...) cannot be told from each other, so they are not guessed.

    Raises:
        ValueError: the bytes are in another encoding; the message says what to do.
    """
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(
            f"it is not {name} (byte 0x{data[error.start]:02x} at {error.start}); save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError("it has zero bytes, as UTF-16 without a byte order mark has; save it as UTF-8")
    return text.strip()
