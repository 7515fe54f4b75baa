"""Scores in the metadata of image files: read one, find all, write one."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError, InputError
from ..files.foreign_bytes import guarded
from ..files.limits import MAX_SCORE_KEYS
from . import infotext, xmp
from .tagged_image import _damaged, _format, _guarded, _read, _texts, _xmp
from .with_texts import with_score

MODEL_NOTE, PROMPT_NOTE = " Model", " Prompt"  # behind the name of a score
LONGEST_KEY = 79  # of a PNG text
_NOT_XML = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class StoredScore:
    """A score as an image file holds it.

    Attributes:
        image: the file.
        key: the name of the score.
        text: the score as it is written there.
        model: the model that made it, or None if neither the file nor the key says so.
        prompt: the prompt that it was made for, or None if the file does not say so.
    """

    image: str
    key: str
    text: str
    model: str | None = None
    prompt: str | None = None

    @property
    def value(self) -> float:
        """The score as a number.

        Raises:
            ImageError: it is not a finite number.
        """
        try:
            value = float(self.text)
        except ValueError:
            raise ImageError(self.image, f"its {self.key!r} is no number: {self.text[:40]!r}") from None
        if not math.isfinite(value):
            raise ImageError(
                self.image, f"its {self.key!r} is {self.text}, not a finite number. Tag it again"
            )
        return value


def check_key(key: str) -> str:
    """Return the name of a score, if every format takes it: the WebUI's settings, PNG and XML.

    Raises:
        InputError: it has other characters than ASCII letters, digits, spaces and ``-_.()/``, or is too long.
    """
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9 \-_.()/]{0,77}[A-Za-z0-9\-_.()/])?", key):
        raise InputError(
            "the name of a score is made of ASCII letters, digits, spaces and - _ . ( ) /, 79 at most: "
            f"got {key!r}"
        )
    return key


def read_score(path: str | os.PathLike[str], key: str) -> float | None:
    """Return the score that an image holds under that key; None if it holds none.

    Raises:
        ImageError: as read_texts; or the score is not a finite number.
    """
    stored = read_stored_score(path, key)
    return None if stored is None else stored.value


def read_stored_score(path: str | os.PathLike[str], key: str) -> StoredScore | None:
    """Return the score that an image holds under that key, with its model and prompt as far as known.

    Raises:
        ImageError: as read_texts.
    """
    check_key(key)
    return _guarded(path, lambda data: _stored(os.fspath(path), data, key))


def read_score_keys(path: str | os.PathLike[str]) -> list[str]:
    """Return the names of all scores in an image: those that end in "Score", and those with a model noted.

    Raises:
        ImageError: as read_texts.
    """

    def read(data: bytes) -> list[str]:
        texts, packet = _texts(data), _xmp(data)
        names = list(xmp.keys(packet)) if packet else []
        names += texts if _format(data) == "png" else []
        for name in ("parameters", "UserComment"):
            parts = infotext.split(texts.get(name, ""))
            names += parts[1] if parts else []
        keys = [name.removesuffix(MODEL_NOTE) for name in names if name.endswith((" Score", MODEL_NOTE))]
        distinct = list(dict.fromkeys(keys))
        if len(distinct) > MAX_SCORE_KEYS.value:
            raise ValueError(f"it has {len(distinct):,} names of scores ({MAX_SCORE_KEYS.advice})")
        return [key for key in distinct if _holds_number(data, key, texts, packet)]

    return _guarded(path, read)


def _holds_number(data: bytes, key: str, texts: dict[str, str], packet: bytes | None) -> bool:
    try:
        stored = _stored_in("", data, check_key(key), texts, packet)
        return stored is not None and isinstance(float(stored.text), float)
    except ValueError:
        return False


def _stored(image: str, data: bytes, key: str) -> StoredScore | None:
    return _stored_in(image, data, key, _texts(data), _xmp(data))


def _stored_in(
    image: str, data: bytes, key: str, texts: dict[str, str], packet: bytes | None
) -> StoredScore | None:
    packet = packet or b""
    own = texts if _format(data) == "png" else {}
    # A PNG that was made from a JPEG file may still hold that one's UserComment: it is never written to.
    found = (
        infotext.get(texts.get("parameters", ""), key),
        own.get(key),
        infotext.get(texts.get("UserComment", ""), key),
        xmp.get(packet, key),
    )
    text = next((value for value in found if value is not None), None)
    if text is None:
        return None
    names = (key + MODEL_NOTE, key + PROMPT_NOTE)
    model, prompt = (own[name] if name in own else xmp.get(packet, name) for name in names)
    return StoredScore(image, key, text, model or _model_in(key), prompt or None)


def _model_in(key: str) -> str | None:
    """Return the model that a key names: "tiny Score" is a score of tiny."""
    return key.removesuffix(" Score") if key.endswith(" Score") else None


def write_score(
    path: str | os.PathLike[str],
    key: str,
    score: float,
    *,
    model: str | None = None,
    prompt: str | None = None,
) -> None:
    """Write a score into an image's metadata; pixels and all other metadata stay byte for byte.

    It goes where the image already holds one under that key, else to the end of AUTOMATIC1111's settings
    ("parameters", or EXIF's UserComment), else to a text of its own (PNG) or a value in XMP (JPEG, WebP).
    The file's times and permissions stay. Indexes of further images in the file (MPF) are kept right.

    Args:
        path: the image.
        key: the name of the score.
        score: a finite number.
        model: the model that made it; noted as "KEY Model" unless the key says it ("tiny Score").
        prompt: the prompt that it was made for; noted as "KEY Prompt".

    Raises:
        ImageError: no such file, another format, damaged, animated, signed, read-only, no room, or changed
            meanwhile.
        InputError: not a key (see check_key), or a score that is not a finite number.
    """
    check_key(key)
    if not math.isfinite(score):
        raise InputError(f"Cannot write {key!r} into {os.fspath(path)!r}: {score} is not a finite number.")
    notes = {
        key + MODEL_NOTE: None if model == _model_in(key) else model and _one_line(model),
        key + PROMPT_NOTE: prompt and _one_line(prompt),
    }
    for name in (name for name, note in notes.items() if note and len(name) > LONGEST_KEY):
        raise InputError(
            f"Cannot note {name!r}: it is longer than {LONGEST_KEY} characters. Choose a shorter key."
        )
    target = os.path.realpath(path)  # a link still leads to the same file
    name = os.fspath(path)
    data = _read(name)
    before = os.stat(target)
    if not before.st_mode & stat.S_IWUSR or not os.access(target, os.W_OK):
        raise ImageError(name, "read-only")
    with guarded(lambda error: _damaged(name, error)):
        changed = with_score(data, key, f"{score:.4f}", notes)
    if changed != data:
        _replace(name, target, changed, before)


def _replace(name: str, target: str, changed: bytes, before: os.stat_result) -> None:
    """Put another content into a file, whole or not at all; its times, owner and permissions stay."""
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=os.path.dirname(target))
        with open(descriptor, "wb") as file:
            file.write(changed)
            file.flush()
            os.fsync(file.fileno())
        shutil.copystat(target, temporary)
        with contextlib.suppress(OSError, AttributeError):
            os.chown(temporary, before.st_uid, before.st_gid)
        now = os.stat(target)
        if (now.st_mtime_ns, now.st_size) != (before.st_mtime_ns, before.st_size):
            raise ImageError(name, "changed by something else meanwhile; left as it is")
        os.replace(temporary, target)
    except OSError as error:
        raise ImageError(name, f"cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _one_line(text: str) -> str:
    """Return a text without line breaks and without what XML does not take."""
    return " ".join(_NOT_XML.sub(" ", text).split())
