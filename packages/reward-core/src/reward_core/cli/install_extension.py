"""``reward-core install-extension``: install the extension for Stable Diffusion WebUI or ComfyUI."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..printing.escapes import printable

PACKAGE = Path(__file__).resolve().parents[1]
SOURCE_FILE = "reward_core_source.json"


@dataclass(frozen=True)
class Host:
    """A program that loads extensions.

    Attributes:
        title: name in messages.
        signs: files that identify the program's folder.
        folder: its folder for extensions.
        extension: our folder in tools/.
        installed_as: name of the installed folder.
        sign_of_ours: file that identifies an earlier installation of our extension.
        steps: instructions printed after the installation.
    """

    title: str
    signs: tuple[str, ...]
    folder: str
    extension: str
    installed_as: str
    sign_of_ours: str
    steps: str


HOSTS = {
    "webui": Host(
        "Stable Diffusion WebUI (AUTOMATIC1111 or Forge)",
        ("launch.py", "modules/scripts.py", "modules/processing.py"),
        "extensions",
        "sd_webui",
        "sd-webui-image-reward",
        "scripts/image_reward.py",
        "Restart the WebUI. It runs the extension's install.py and shows the accordion\n"
        '"ImageReward - generate human preference scores" in txt2img and img2img.',
    ),
    "comfyui": Host(
        "ComfyUI",
        ("main.py", "nodes.py", "execution.py", "folder_paths.py"),
        "custom_nodes",
        "comfyui",
        "comfyui-reward-core",
        "pick_and_save.py",
        "Restart ComfyUI. The nodes are under Add Node > reward, the workflows under Browse Templates.",
    ),
}


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "install-extension", help="install the extension for Stable Diffusion WebUI or ComfyUI"
    )
    parser.add_argument("host", choices=list(HOSTS), help="program to install the extension into")
    parser.add_argument("path", type=Path, metavar="PATH", help="folder of the WebUI or of ComfyUI")
    parser.add_argument(
        "--link", action="store_true", help="link to the extension's folder instead of copying it"
    )
    parser.set_defaults(run=run_install_extension)


def run_install_extension(args: argparse.Namespace) -> int:
    host = HOSTS[args.host]
    path = args.path.expanduser().resolve()
    _check_host(host, path, args.host)
    source = extension_folder(host.extension)
    target = path / host.folder / host.installed_as
    before = _check_target(host, target)
    package = own_source()
    target.parent.mkdir(exist_ok=True)
    if args.link:
        _link(source, target)
    else:
        _copy(source, target, package)
    done = "linked" if args.link else "copied"
    print(printable(f"{done} {source}"))
    print(printable(f"  to {target}{' (replacing an earlier one)' if before else ''}"))
    if args.host == "comfyui" or package is None:
        what = f'"{package}"' if package else "./packages/reward-core  # in a checkout"
        deps = "--no-deps " if args.host == "webui" else ""
        print("The host's own Python needs reward-core too:")
        print(printable(f'  "{_python_of(path)}" -m pip install {deps}{what}'))
    else:
        print(printable(f"install.py will install reward-core from {package}"))
    print(host.steps)
    return 0


def extension_folder(name: str) -> Path:
    """Return the folder of an extension: in the installed package, or in tools/ of a checkout."""
    candidates = [PACKAGE / "extensions" / name, *(p / "tools" / name for p in PACKAGE.parents[3:4])]
    for folder in candidates:
        if folder.is_dir():
            return folder
    searched = ", ".join(map(str, candidates))
    raise InputError(
        f"Cannot install the extension {name!r}: this installation of reward-core does not contain it "
        f"(searched {searched}). Reinstall reward-core."
    )


def own_source() -> str | None:
    """Return the source of this installation of reward-core as an argument for pip, or None.

    The source is the folder of a checkout, the path of a wheel, or a git address pinned to its commit;
    never a name in a package index.
    """
    import importlib.metadata
    import urllib.parse
    import urllib.request

    checkout = PACKAGE.parents[1]
    if (checkout / "pyproject.toml").is_file() and PACKAGE.parent.name == "src":
        return str(checkout)
    try:
        text = importlib.metadata.distribution("reward-core").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    if text is None:
        return None
    origin = json.loads(text)
    url = origin["url"]
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
        if origin.get("subdirectory"):
            url += f"#subdirectory={origin['subdirectory']}"
        return url
    if not url.startswith("file:"):
        return url
    path = urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
    return path if os.path.exists(path) else None


def _check_host(host: Host, path: Path, name: str) -> None:
    if not path.is_dir():
        raise InputError(f"Cannot install into '{path}': no such folder.")
    missing = [sign for sign in host.signs if not (path / sign).is_file()]
    if not missing:
        return
    nearby = [path.parent, *(p for p in path.iterdir() if p.is_dir())]
    better = [p for p in nearby if all((p / sign).is_file() for sign in host.signs)]
    other = next((h for h in HOSTS.values() if all((path / sign).is_file() for sign in h.signs)), None)
    hint = ""
    if better:
        hint = f". Try `reward-core install-extension {name} {better[0]}`"
    elif other is not None:
        hint = f"; it is {other.title}"
    raise InputError(
        f"Cannot install into '{path}': it is not the folder of {host.title}, it has no "
        f"{', '.join(missing)}{hint}."
    )


def _check_target(host: Host, target: Path) -> bool:
    """Return whether the target is an earlier installation; raise InputError if it is something else."""
    if not os.path.lexists(target):
        return False
    if target.is_symlink() or (target / host.sign_of_ours).is_file():
        return True
    raise InputError(
        f"Cannot install into {target}: it exists and is not this extension. Move it away first."
    )


def _copy(source: Path, target: Path, package: str | None) -> None:
    """Copy to a folder beside the target, then rename it, so that the target is never incomplete."""
    new = target.with_name(f".{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(source, new, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    if package is not None:
        (new / SOURCE_FILE).write_text(json.dumps({"source": package}) + "\n", encoding="utf-8")
    _remove(target)
    new.rename(target)


def _link(source: Path, target: Path) -> None:
    new = target.with_name(f".{target.name}.new")
    _remove(new)
    try:
        new.symlink_to(source, target_is_directory=True)
    except OSError as error:
        raise InputError(
            f"Cannot link {target}: {error}. Run the command without --link to copy the folder."
        ) from error
    _remove(target)
    new.rename(target)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _python_of(path: Path) -> str:
    """Return the Python of the program's own environment, or the command ``python3`` if it has none."""
    for folder in (path / "venv", path / ".venv", path.parent / "python_embeded"):
        for name in ("bin/python", "Scripts/python.exe", "python.exe"):
            if (folder / name).exists():
                return str(folder / name)
    return "python" if sys.platform == "win32" else "python3"
