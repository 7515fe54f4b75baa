"""Where registered files are on this machine, and how to copy missing ones to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..errors import InputError
from .file_specs import HubFile, HubPieces, PackageFile, WebFile

CONVERTED_INDEX = "model.safetensors.index.json"  # of weights that were published in pieces


def local_path(file: HubFile | WebFile, download_root: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the path of a registered file if it is on this machine, without any download; else None.

    For a file in pieces it is that of the converted weights.
    """
    if download_root is not None or isinstance(file, (WebFile, HubPieces)):
        path = target_path(file, download_root)
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    for repo_id in filter(None, (file.repo_id, file.fallback_repo_id)):
        cached = try_to_load_from_cache(repo_id, file.filename, revision=file.revision)
        if isinstance(cached, str):
            return Path(cached)
    return None


def target_path(file: HubFile | WebFile, download_root: str | os.PathLike[str] | None = None) -> Path:
    """Return where a file goes: its own path, or the folder of its repository in the hub's cache.

    For a file in pieces it is the path of the converted weights.
    """
    if isinstance(file, HubPieces):
        downloads = Path(download_root or Path(torch_cache()) / "reward-core")
        return downloads / file.converted / CONVERTED_INDEX
    if download_root is not None:
        folder = file.folder if isinstance(file, HubFile) else ""
        return Path(download_root) / folder / file.filename
    if isinstance(file, WebFile):
        return Path(torch_cache()) / "reward-core" / file.filename
    return _cache_folder(file.repo_id)


def package_path(file: PackageFile) -> Path:
    """Return the path of a file that is part of an installed package.

    Raises:
        InputError: the package is not installed, or does not have the file.
    """
    try:
        spec = find_spec(file.package)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"Cannot find {file.filename!r}: the package {file.package!r} is not installed.")
    path = Path(spec.submodule_search_locations[0], file.filename)
    if not path.is_file():
        raise InputError(f"Cannot find '{path}', a file of {file.package!r}. Install the package again.")
    return path


def address(file: HubFile | WebFile) -> str:
    """Return the address that a browser downloads the file from."""
    if isinstance(file, WebFile):
        return file.url
    from huggingface_hub import constants, hf_hub_url

    if isinstance(file, HubPieces):
        return f"{constants.ENDPOINT}/{file.repo_id}"
    return hf_hub_url(file.repo_id, file.filename, revision=file.revision)


def copy_target(file: HubFile | WebFile, download_root: str | os.PathLike[str] | None = None) -> Path:
    """Return where to copy a file from another machine.

    It is ``target_path``, but for a file in pieces the folder of its repository in the hub's cache.
    """
    if isinstance(file, HubPieces):
        return _cache_folder(file.repo_id, download_root)
    return target_path(file, download_root)


def download_command(files: Sequence[HubFile]) -> str:
    """Return the command that downloads files of the same repository and revision from the hub.

    A file in pieces needs a command of its own.
    """
    names = [f"--include '{f.filename}'" if isinstance(f, HubPieces) else f.filename for f in files]
    revision = [] if files[0].revision is None else ["--revision", files[0].revision]
    return " ".join(["hf", "download", files[0].repo_id, *names, *revision])


def how_to_copy(
    files: Sequence[HubFile | WebFile], download_root: str | os.PathLike[str] | None = None
) -> str:
    """Return how to bring those of some files that are missing to this machine, in one sentence."""
    steps = []
    commands: dict[tuple[Path, object, bool], list[HubFile]] = {}  # by cache folder, revision, in pieces
    for file in (file for file in files if local_path(file, download_root) is None):
        target = copy_target(file, download_root)
        in_pieces = isinstance(file, HubPieces)
        if in_pieces or (download_root is None and isinstance(file, HubFile)):
            assert isinstance(file, HubFile)  # HubPieces are
            commands.setdefault((target, file.revision, in_pieces), []).append(file)
        else:
            steps.append(f"download {address(file)} and copy it to {target}")
    for (folder, _, _), missing in commands.items():
        steps.append(f"run `{download_command(missing)}` and copy its cache folder {folder.name} to {folder}")
    return f"On a machine with a network, {'; '.join(steps)}."


def how_to_copy_repo(repo_id: str, cache: str | os.PathLike[str] | None = None) -> str:
    """Return how to bring a whole repository to this machine, in one sentence."""
    target = _cache_folder(repo_id, cache)
    return (
        f"On a machine with a network, run `hf download {repo_id}` and copy its cache folder {target.name} "
        f"to {target}; or give the path of a folder or file."
    )


def _cache_folder(repo_id: str, cache: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of a repository in the hub's cache."""
    from huggingface_hub import constants

    return Path(cache or constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"


def torch_cache() -> str:
    """Return torch's folder for downloaded files ($TORCH_HOME/hub, by default ~/.cache/torch/hub)."""
    from torch.hub import get_dir

    return get_dir()
