"""Table 1 of the paper: 100 prompts, six generators, 10 images per prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from reward_core.errors import CheckpointError, InputError
from reward_core.files.json_file import read_json

from .. import paper
from ..download import PROMPTS, REPO, text_file, unpacked_zip
from ..score_files import FORMER_NAMES
from .base import Group, Part, SuiteOptions

IMAGES = 10  # per published generator and prompt
FOLDER = "generations"


def build(options: SuiteOptions) -> list[Part]:
    """Build Table 1 for ``options.generators``; "default" is the paper's six.

    Raises:
        InputError: a generator has no images, or the prompts are invalid.
        HubError: a download failed.
    """
    prompts = read_prompts(text_file(PROMPTS, options.data, options.offline))[: options.limit]
    groups = []
    names = generator_names(options)
    for name in names:
        folder = generator_folder(name, options)
        count = IMAGES if name in paper.TABLE1 else _count(folder, [i for i, _ in prompts])
        for prompt_id, prompt in prompts:
            files = [folder / f"{prompt_id}_{x}.png" for x in range(count)]
            labels = tuple(f"{name}/{file.name}" for file in files)
            groups.append(Group(prompt_id, prompt, tuple(files), labels, generator=name))
    return [
        Part(
            "table1",
            "Table 1: real users' prompts",
            "generators",
            tuple(groups),
            reference={name: float(row.rank) for name, row in paper.TABLE1.items() if name in names},
            titles={name: row.title for name, row in paper.TABLE1.items() if name in names},
            revision=f"{REPO} (main), prompts sha256 {PROMPTS.sha256[:12]}",
        )
    ]


def read_prompts(path: Path) -> list[tuple[str, str]]:
    """Read the (id, prompt) pairs of a JSON file [{"id", "prompt"}, ...].

    Raises:
        InputError: another format, a duplicate id, or an id that cannot be a file name.
    """
    try:
        content = read_json(path)
        prompts = [(record["id"], record["prompt"]) for record in content]
    except (CheckpointError, TypeError, KeyError) as error:
        raise InputError(
            f"Cannot read prompts from '{path}': expected a list of {{'id', 'prompt'}} ({error})."
        ) from error
    ids = [i for i, _ in prompts]
    if not prompts:
        raise InputError(f"Cannot read prompts from '{path}': the list is empty.")
    if len(set(ids)) < len(ids):
        raise InputError(f"Cannot read prompts from '{path}': an id is repeated. Ids must be unique.")
    for i, prompt in prompts:
        if not isinstance(prompt, str) or not isinstance(i, str) or not re.fullmatch(r"[\w.-]+", i):
            raise InputError(
                f"Cannot read prompts from '{path}': prompts must be strings, and ids strings of letters, "
                f"digits and '_.-', got id {i!r:.40} with prompt {prompt!r:.40}."
            )
    return prompts


def generator_folder(name: str, options: SuiteOptions) -> Path:
    """Return the folder of a generator's images; download the paper's six.

    Raises:
        InputError: the folder is missing, and the generator is not one of the paper's.
        HubError: the download failed.
    """
    if (existing := find_generator_folder(name, options)) is not None:
        return existing
    if name not in paper.TABLE1:
        raise InputError(
            f"Cannot find images of the generator {name!r}: no folder '{options.data / FOLDER / name}'. "
            f"Generate them with `reward-benchmark generate --name {name} --out {options.data / FOLDER}`."
        )
    target = options.data / FOLDER / name
    return unpacked_zip(f"generations/{name}.zip", target, options.data / "downloads", options.offline)


def find_generator_folder(name: str, options: SuiteOptions) -> Path | None:
    """Return the folder of a generator's images, or None if it does not exist."""
    known = [name, *(old for old, new in FORMER_NAMES.items() if new == name)]
    for folder in (options.data / FOLDER, options.data):
        for spelling in known:
            if (folder / spelling).is_dir():
                return folder / spelling
    return None


def generator_names(options: SuiteOptions) -> Sequence[str]:
    """Return the names of the generators, without the words "default" and "all"."""
    names: list[str] = []
    for name in options.generators:
        if name == "default":
            names += paper.TABLE1
        elif name == "all":
            root = options.data / FOLDER
            folders = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
            names += [*paper.TABLE1, *(FORMER_NAMES.get(n, n) for n in folders if not n.startswith("."))]
        else:
            names.append(FORMER_NAMES.get(name, name))
    return list(dict.fromkeys(names))


def _count(folder: Path, ids: list[str]) -> int:
    """Return the number of images per prompt, from the numbers in file names."""
    numbers = [
        int(m[2]) for p in folder.iterdir() if (m := re.fullmatch(r"(.+)_(\d+)\.png", p.name)) and m[1] in ids
    ]
    if not numbers:
        raise InputError(
            f"Cannot find images in '{folder}': no files are named PROMPT-ID_NUMBER.png, such as "
            f"{ids[0]}_0.png."
        )
    return max(numbers) + 1
