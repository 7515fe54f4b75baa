"""Which image belongs to which prompt, read from the forms in which people keep it."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from ..errors import InputError, PromptWithoutImageWarning
from ..files.json_file import read_json
from ..runs.caller_warning import warn_caller


def read_pairs(path: Path, images: Path) -> list[tuple[str, Path]]:
    """(prompt, image) pairs of a prompts file, in its order.

    Forms (JSON):
        {"picture.png": "prompt", ...};
        the original's rankings, [{"id", "prompt", "generations": ["picture.webp", ...]}, ...];
        the original's benchmark prompts, [{"id", "prompt"}, ...], whose images are the files
        ``{id}_{x}.*`` in the folder, x without an underscore.

    Args:
        path: the prompts file.
        images: the folder to which images' names are relative.

    Raises:
        InputError: no such file or folder, or another form; the offending record is named.

    Warns:
        PromptWithoutImageWarning: once, naming the ids that no file name begins with.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such prompts file")
    if not images.is_dir():
        raise InputError(f"{images}: no such folder of images")
    content = read_json(path, error=InputError)
    if isinstance(content, dict):
        pairs = [(_prompt(path, name, prompt), images / name) for name, prompt in content.items()]
    elif isinstance(content, list):
        by_record = [_record_pairs(path, i, record, images) for i, record in enumerate(content)]
        pairs = [pair for record in by_record for pair in record]
        without = [f"{record.get('id', i)!s:.100}" for i, record in enumerate(content) if not by_record[i]]
        if pairs and without:
            shown = ", ".join(without[:8]) + (", ..." if len(without) > 8 else "")
            message = f"{path}: {len(without)} of {len(content)} prompts have no image in {images}: {shown}"
            warn_caller(message, PromptWithoutImageWarning)
    else:
        raise InputError(f"{path}: a JSON object or list was expected, got {type(content).__name__}")
    if not pairs:
        raise InputError(f"{path}: no prompt has an image in {images}")
    return pairs


def _record_pairs(path: Path, i: int, record: Any, images: Path) -> list[tuple[str, Path]]:
    where = f"record {i}"
    if not isinstance(record, dict) or "prompt" not in record:
        raise InputError(f"{path}: {where} has no 'prompt': {record!r:.120}")
    prompt = _prompt(path, where, record["prompt"])
    generations = record.get("generations")
    if generations is None:
        name = record.get("id")
        if not isinstance(name, (str, int)) or "/" in str(name):
            raise InputError(
                f"{path}: {where} has neither 'generations' nor an 'id' that file names begin with"
            )
        # Names that end in a number, in the order of the number: 2 before 10.
        candidates = images.glob(f"{glob.escape(str(name))}_*.*")
        own = [file for file in candidates if "_" not in file.stem[len(str(name)) + 1 :]]
        return [(prompt, file) for file in sorted(own, key=lambda f: (len(f.stem), f.name))]
    if not isinstance(generations, list) or not all(isinstance(name, str) for name in generations):
        raise InputError(f"{path}: {where}: 'generations' must be a list of file names")
    return [(prompt, images / name) for name in generations]


def _prompt(path: Path, where: str, prompt: Any) -> str:
    if not isinstance(prompt, str):
        raise InputError(f"{path}: {where}: the prompt must be a string, got {prompt!r:.80}")
    return prompt
