"""The authors' files: download, check and unpack them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from reward_core.files.zip_file import unzip
from reward_core.hub.downloads import fetch
from reward_core.hub.file_specs import HubFile, WebFile
from reward_core.runs.progress import unpacking

REPO, FORMER_REPO = "zai-org/ImageReward", "THUDM/ImageReward"
#: Environment variable with the address of a mirror of raw.githubusercontent.com.
GITHUB_VARIABLE = "REWARD_BENCHMARK_GITHUB"
GITHUB = "https://raw.githubusercontent.com"
ZIP_SIZES = {
    "test_images.zip": "1.18 GB",
    "generations/openjourney.zip": "442 MB",
    "generations/sd2-1.zip": "434 MB",
    "generations/dalle2.zip": "390 MB",
    "generations/sd1-4.zip": "456 MB",
    "generations/versatile-diffusion.zip": "495 MB",
    "generations/cogview2.zip": "255 MB",
}


@dataclass(frozen=True)
class TextFile:
    """A JSON file of the authors' source repository.

    Attributes:
        path: in that repository.
        name: on this machine.
        sha256: of the published file.
        size: such as "391 kB", for messages.
    """

    path: str
    name: str
    sha256: str
    size: str

    @property
    def address(self) -> str:
        return f"{os.environ.get(GITHUB_VARIABLE, GITHUB)}/{REPO}/main/{self.path}"


PROMPTS = TextFile(
    "benchmark/benchmark-prompts.json",
    "benchmark-prompts.json",
    "34682e824ebb3ad8e2531b3cde1b362dc72e1e29946ff6fab77bb49e9edb4b21",
    "15 kB",
)
RANKINGS = TextFile(
    "data/test.json",
    "test.json",
    "77cff6c2d0522006f52f0b637ef8302db1782b2b761e378c124a012a3c7fc58e",
    "391 kB",
)


def text_file(file: TextFile, folder: Path, offline: bool) -> Path:
    """Return the path of a file in ``folder``; download and check it if it is missing.

    A file that exists is the user's choice and is not checked.

    Raises:
        HubError: the download failed, or the file differs from the published one.
    """
    path = folder / file.name
    if path.is_file():
        return path
    return fetch(WebFile(file.address, file.name, file.sha256), folder, local_files_only=offline)


def zip_file(name: str) -> HubFile:
    """Return where a zip of the authors' images is on the hub."""
    return HubFile(REPO, name, fallback_repo_id=FORMER_REPO, size=ZIP_SIZES.get(name, ""))


def unpacked_zip(name: str, target: Path, downloads: Path, offline: bool) -> Path:
    """Return the folder ``target`` with the content of the authors' zip; download it if it is missing.

    The folder appears whole; the zip is removed once it is unpacked. An interrupted download resumes.

    Raises:
        HubError: the download failed. InputError: a zip that is damaged or not safe to unpack.
    """
    if target.is_dir():
        return target
    path = fetch(zip_file(name), downloads, local_files_only=offline)
    unzip(path, target, track=unpacking(path.name))
    path.unlink()
    return target
