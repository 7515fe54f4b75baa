"""Read files of prompts, and files that assign prompts to images."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from ..errors import InputError, PromptWithoutImageWarning
from ..files.foreign_bytes import guarded, read_regular, reason
from ..files.json_file import MAX_JSON_BYTES, read_json
from ..runs.caller_warning import warn_caller


def read_pairs(path: Path, images: Path) -> list[tuple[str, Path]]:
    """Return the (prompt, image) pairs of a prompts file, in its order.

    Formats (JSON):
        {"image.png": "prompt", ...};
        rankings of the original, [{"id", "prompt", "generations": ["image.webp", ...]}, ...];
        benchmark prompts of the original, [{"id", "prompt"}, ...], with images ``{id}_{x}.*`` in the folder,
        where x has no underscore.

    Args:
        path: the prompts file.
        images: folder that the names of images are relative to.

    Raises:
        InputError: the file or folder does not exist, or a record has another format.

    Warns:
        PromptWithoutImageWarning: once, with the ids that have no image.
    """
    if not path.is_file():
        raise InputError(f"Cannot read prompts from '{path}': no such file.")
    if not images.is_dir():
        raise InputError(f"Cannot read images from '{images}': no such folder.")
    content = read_json(path, error=InputError)
    if isinstance(content, dict):
        pairs = [(_prompt(path, name, prompt), images / name) for name, prompt in content.items()]
    elif isinstance(content, list):
        by_record = [_record_pairs(path, i, record, images) for i, record in enumerate(content)]
        pairs = [pair for record in by_record for pair in record]
        without = [f"{record.get('id', i)!s:.100}" for i, record in enumerate(content) if not by_record[i]]
        if pairs and without:
            ids = ", ".join(without[:8]) + (", ..." if len(without) > 8 else "")
            message = f"{path}: {len(without)} of {len(content)} prompts have no image in {images}: {ids}"
            warn_caller(message, PromptWithoutImageWarning)
    else:
        raise InputError(
            f"Cannot read prompts from '{path}': expected a JSON object or list, got "
            f"{type(content).__name__}."
        )
    if not pairs:
        raise InputError(f"Cannot read prompts from '{path}': no prompt has an image in '{images}'.")
    return pairs


def read_prompt_lines(path: Path) -> list[str]:
    """Return the prompts of a UTF-8 text file with one prompt per line, without empty lines.

    Raises:
        InputError: the file cannot be read, or has no prompts.
    """

    def error(problem: str) -> InputError:
        return InputError(f"Cannot read prompts from '{path}': {problem}.")

    if not path.is_file():
        raise error("no such file")
    with guarded(lambda e: error(reason(e))):
        data = read_regular(path, MAX_JSON_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise error(f"it is not UTF-8 ({e.reason} at byte {e.start}). Save it as UTF-8") from e
    # splitlines() would also split at characters such as U+2028, which prompts may contain.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise error("it has no prompts. Write one prompt per line")
    return prompts


def _record_pairs(path: Path, i: int, record: Any, images: Path) -> list[tuple[str, Path]]:
    where = f"record {i}"
    if not isinstance(record, dict) or "prompt" not in record:
        raise InputError(f"Cannot read prompts from '{path}': {where} has no 'prompt': {record!r:.120}.")
    prompt = _prompt(path, where, record["prompt"])
    generations = record.get("generations")
    if generations is None:
        name = record.get("id")
        if not isinstance(name, (str, int)) or "/" in str(name):
            raise InputError(
                f"Cannot read prompts from '{path}': {where} has neither 'generations' nor an 'id' that "
                "file names can begin with."
            )
        candidates = images.glob(f"{glob.escape(str(name))}_*.*")
        files = [file for file in candidates if "_" not in file.stem[len(str(name)) + 1 :]]
        # Sort numbered names by number: 2 before 10.
        return [(prompt, file) for file in sorted(files, key=lambda f: (len(f.stem), f.name))]
    if not isinstance(generations, list) or not all(isinstance(name, str) for name in generations):
        raise InputError(
            f"Cannot read prompts from '{path}': {where}: 'generations' must be a list of file names."
        )
    return [(prompt, images / name) for name in generations]


def _prompt(path: Path, where: str, prompt: Any) -> str:
    if not isinstance(prompt, str):
        raise InputError(
            f"Cannot read prompts from '{path}': {where}: the prompt must be a string, got {prompt!r:.80}."
        )
    return prompt
