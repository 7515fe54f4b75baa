"""Reading and writing of scores in the metadata of image files."""

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

MODEL_NOTE, PROMPT_NOTE = " Model", " Prompt"  # suffixes of the name of a score
LONGEST_KEY = 79  # characters of a keyword of PNG
_NOT_XML = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class StoredScore:
    """A score stored in an image file.

    Attributes:
        image: the file.
        key: name of the score.
        text: the score as text.
        model: model that computed the score; None if neither the file nor the key has it.
        prompt: prompt of the score; None if the file does not have it.
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
            ImageError: the score is not a finite number.
        """
        try:
            value = float(self.text)
        except ValueError:
            raise ImageError(self.image, f"its {self.key!r} is not a number: {self.text[:40]!r}") from None
        if not math.isfinite(value):
            raise ImageError(
                self.image, f"its {self.key!r} is {self.text}, not a finite number. Tag it again"
            )
        return value


def check_key(key: str) -> str:
    """Return the name of a score after checking that every metadata format accepts it.

    Raises:
        InputError: the name is too long or has characters other than ASCII letters, digits, spaces and
            ``-_.()/``.
    """
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9 \-_.()/]{0,77}[A-Za-z0-9\-_.()/])?", key):
        raise InputError(
            f"Cannot use {key!r} as name of a score. Use at most 79 ASCII letters, digits, spaces and "
            "- _ . ( ) /."
        )
    return key


def read_score(path: str | os.PathLike[str], key: str) -> float | None:
    """Return the score stored in an image under a key, or None.

    Raises:
        ImageError: as in `read_texts`, or the score is not a finite number.
    """
    stored = read_stored_score(path, key)
    return None if stored is None else stored.value


def read_stored_score(path: str | os.PathLike[str], key: str) -> StoredScore | None:
    """Return the score stored in an image under a key, with model and prompt.

    Raises:
        ImageError: as in `read_texts`.
    """
    check_key(key)
    return _guarded(path, lambda data: _stored(os.fspath(path), data, key))


def read_score_keys(path: str | os.PathLike[str]) -> list[str]:
    """Return the names of all scores in an image.

    These are names that end in " Score" and names with a model note.

    Raises:
        ImageError: as in `read_texts`.
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
    png_texts = texts if _format(data) == "png" else {}
    # A PNG converted from a JPEG file may still have its UserComment, which is never written to.
    values = (
        infotext.get(texts.get("parameters", ""), key),
        png_texts.get(key),
        infotext.get(texts.get("UserComment", ""), key),
        xmp.get(packet, key),
    )
    text = next((value for value in values if value is not None), None)
    if text is None:
        return None
    names = (key + MODEL_NOTE, key + PROMPT_NOTE)
    model, prompt = (png_texts[name] if name in png_texts else xmp.get(packet, name) for name in names)
    return StoredScore(image, key, text, model or _model_in(key), prompt or None)


def _model_in(key: str) -> str | None:
    """Return the model named in a key, such as tiny in "tiny Score"."""
    return key.removesuffix(" Score") if key.endswith(" Score") else None


def write_score(
    path: str | os.PathLike[str],
    key: str,
    score: float,
    *,
    model: str | None = None,
    prompt: str | None = None,
) -> None:
    """Write a score into the metadata of an image, without other changes to the file.

    The score replaces an old one with the same key. Otherwise it is added to the end of AUTOMATIC1111's
    settings ("parameters", or EXIF's UserComment), or else as a new text (PNG) or XMP value (JPEG, WebP).
    Pixels, other metadata, times and permissions stay. Offsets of further images in the file (MPF) are
    corrected.

    Args:
        path: the image.
        key: name of the score.
        score: a finite number.
        model: model that computed the score; stored as "KEY Model" unless the key has it ("tiny Score").
        prompt: prompt of the score; stored as "KEY Prompt".

    Raises:
        ImageError: the file does not exist, has another format, is damaged, animated, signed or read-only,
            has no room for the score, or was changed at the same time.
        InputError: an invalid key (see `check_key`), or a score that is not a finite number.
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
            f"Cannot write {name!r}: the name is longer than {LONGEST_KEY} characters. Choose a shorter key."
        )
    target = os.path.realpath(path)  # replace the file that a link leads to
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
    """Replace the content of a file atomically; its times, owner and permissions stay."""
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
            raise ImageError(name, "another program changed the file at the same time; not written")
        os.replace(temporary, target)
    except OSError as error:
        raise ImageError(name, f"cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _one_line(text: str) -> str:
    """Return a text without line breaks and characters that XML does not allow."""
    return " ".join(_NOT_XML.sub(" ", text).split())
