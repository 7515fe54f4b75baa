"""Answers of judges on the disk, so that no question is asked twice."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...files.foreign_bytes import read_regular
from ...files.limits import MB, Limit
from ...hub.local_files import torch_cache
from .answers import VLM, Answer, Outcome, Question

logger = logging.getLogger(__name__)

FORMAT = 1  # version of the files; a file of another version is not read
# Largest file of an answer. Usual ones have 4 kB.
MAX_ANSWER_BYTES = Limit("MAX_ANSWER_BYTES", 4 * MB)


def answers_folder() -> Path:
    """Return the default folder of answers, beside the other files that this package stores."""
    return Path(torch_cache()) / "reward-core" / "judge-answers"


class AnswerCache:
    """A folder with one small JSON file for each answer.

    The name of a file is a hash of everything that the answer depends on: the model and its revision or
    server, the question with the prompt, the bytes of the images, and the decoding. The file has these values
    too. Several threads and processes may use one folder.

    Args:
        folder: the folder (default: `answers_folder`); created when the first answer is stored.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None):
        self.folder = answers_folder() if folder is None else Path(folder)
        self._writable = True

    def get(self, key: Mapping[str, Any]) -> Answer | None:
        """Return the stored answer, or None. A damaged file counts as no answer, with a warning."""
        path = self._path(key)
        try:
            content = json.loads(read_regular(path, MAX_ANSWER_BYTES))
            answer = Answer(**content["answer"])
            if not isinstance(answer.text, str) or type(answer.complete) is not bool:
                raise ValueError("wrong types")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            logger.warning("Cannot read the stored answer '%s': %s. The judge is asked again.", path, error)
            return None
        return answer

    def put(self, key: Mapping[str, Any], answer: Answer) -> None:
        """Store an answer. If the folder cannot be written, warn once and store nothing more."""
        if not self._writable:
            return
        path = self._path(key)
        text = json.dumps({"key": key, "answer": asdict(answer)}, indent=1)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, text)
        except OSError as error:
            self._writable = False
            logger.warning("Cannot store answers in '%s': %s. They are not stored.", self.folder, error)

    def _path(self, key: Mapping[str, Any]) -> Path:
        text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.json"


def _write(path: Path, text: str) -> None:
    """Write a file atomically; each thread has a temporary file of its own."""
    descriptor, temporary = tempfile.mkstemp(".tmp", ".", path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def cached_answers(
    vlm: VLM, questions: Sequence[Question], cache: AnswerCache | None, batch_size: int | None
) -> Iterator[Outcome]:
    """Yield the outcome of each question, in order. Only new questions are asked, and each only once.

    Errors are not stored. Answers are, also those that cannot be read.
    """
    keys = [{"model": dict(vlm.identity), "question": question.to_dict()} for question in questions]
    known: dict[str, Outcome] = {}
    missing: dict[str, int] = {}
    names = [json.dumps(key, sort_keys=True) for key in keys]
    for i, name in enumerate(names):
        answer = None if cache is None or name in known or name in missing else cache.get(keys[i])
        if answer is not None:
            known[name] = answer
        elif name not in known:
            missing.setdefault(name, i)
    asked = vlm.answers([questions[i] for i in missing.values()], batch_size) if missing else iter(())
    new = iter(missing.items())
    for name in names:
        while name not in known:
            answered, i = next(new)
            known[answered] = outcome = next(asked)
            if cache is not None and isinstance(outcome, Answer):
                cache.put(keys[i], outcome)
        yield known[name]
