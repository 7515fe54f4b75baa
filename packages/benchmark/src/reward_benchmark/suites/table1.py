"""The paper's Table 1: 100 real users' prompts, six generators, 10 images each."""

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

IMAGES = 10  # of each published generator and prompt
FOLDER = "generations"


def build(options: SuiteOptions) -> list[Part]:
    """Table 1 with the generators asked for; "default" stands for the paper's six."""
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
    """(id, prompt) of a prompts file: [{"id", "prompt"}, ...].

    Raises:
        InputError: another form, an id twice, or one that is no file name.
    """
    try:
        content = read_json(path)
        prompts = [(record["id"], record["prompt"]) for record in content]
    except (CheckpointError, TypeError, KeyError) as error:
        raise InputError(f"{path}: a list of {{'id', 'prompt'}} was expected ({error})") from error
    ids = [i for i, _ in prompts]
    if not prompts or len(set(ids)) < len(ids):
        raise InputError(f"{path}: prompts with ids of their own were expected, got {len(ids)}")
    for i, prompt in prompts:
        if not isinstance(prompt, str) or not isinstance(i, str) or not re.fullmatch(r"[\w.-]+", i):
            raise InputError(f"{path}: id {i!r:.40} or prompt {prompt!r:.40} is not as expected")
    return prompts


def generator_folder(name: str, options: SuiteOptions) -> Path:
    """Return the folder of a generator's images; download it if it is one of the paper's six."""
    if (existing := find_generator_folder(name, options)) is not None:
        return existing
    if name not in paper.TABLE1:
        raise InputError(
            f"{options.data / FOLDER / name}: no such folder of images; make them with "
            f"`reward-benchmark generate --name {name} --out {options.data / FOLDER}`"
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
            found = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
            names += [*paper.TABLE1, *(FORMER_NAMES.get(n, n) for n in found if not n.startswith("."))]
        else:
            names.append(FORMER_NAMES.get(name, name))
    return list(dict.fromkeys(names))


def _count(folder: Path, ids: list[str]) -> int:
    """One more than the highest number of any image of these prompts."""
    numbers = [
        int(m[2]) for p in folder.iterdir() if (m := re.fullmatch(r"(.+)_(\d+)\.png", p.name)) and m[1] in ids
    ]
    if not numbers:
        raise InputError(f"{folder}: no images named PROMPT-ID_NUMBER.png, such as {ids[0]}_0.png")
    return max(numbers) + 1
