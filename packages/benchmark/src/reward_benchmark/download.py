"""The authors' files: fetched, checked, unpacked safely."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from reward_core.errors import HubError
from reward_core.files.zip_file import unzip
from reward_core.hub.downloads import fetch
from reward_core.hub.file_specs import HubFile, WebFile
from reward_core.runs.progress import unpacking

REPO, FORMER_REPO = "zai-org/ImageReward", "THUDM/ImageReward"
#: A mirror of raw.githubusercontent.com may be named here.
GITHUB_VARIABLE = "REWARD_BENCHMARK_GITHUB"
GITHUB = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class TextFile:
    """A JSON file of the authors' source repository. path: in it; sha256: what it must be."""

    path: str
    name: str
    sha256: str

    @property
    def address(self) -> str:
        return f"{os.environ.get(GITHUB_VARIABLE, GITHUB)}/{REPO}/main/{self.path}"


PROMPTS = TextFile(
    "benchmark/benchmark-prompts.json",
    "benchmark-prompts.json",
    "34682e824ebb3ad8e2531b3cde1b362dc72e1e29946ff6fab77bb49e9edb4b21",
)
RANKINGS = TextFile(
    "data/test.json", "test.json", "77cff6c2d0522006f52f0b637ef8302db1782b2b761e378c124a012a3c7fc58e"
)


def text_file(file: TextFile, folder: Path, offline: bool) -> Path:
    """The file in ``folder``, fetched and checked if it is not there. One that lies there is the user's own
    choice and is not compared.

    Raises:
        HubError: not there and not to be had, or not what it was.
    """
    path = folder / file.name
    if path.is_file():
        return path
    return fetch(WebFile(file.address, file.name, file.sha256), folder, local_files_only=offline)


def unpacked_zip(name: str, target: Path, downloads: Path, offline: bool) -> Path:
    """The folder ``target`` with the content of the authors' zip ``name``, fetched if it is not there.

    The folder appears whole; the zip is removed once it is unpacked. A broken download goes on where it
    stopped.

    Raises:
        HubError: not there and not to be had. InputError: a zip that is damaged or not safe to unpack.
    """
    if target.is_dir():
        return target
    address = f"https://huggingface.co/{REPO}/resolve/main/{name}"
    try:
        path = fetch(HubFile(REPO, name, fallback_repo_id=FORMER_REPO), downloads, local_files_only=offline)
    except HubError as error:
        raise HubError(f"{target} is missing. It comes from {address}. {error}") from error
    unzip(path, target, track=unpacking(path.name))
    path.unlink()
    return target
