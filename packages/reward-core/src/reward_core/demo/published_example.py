"""The example of the original README: four images of one prompt and their published scores."""

from __future__ import annotations

import hashlib
import os
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from ..errors import HubError, ImageError, ImageNotFoundError

PROMPT = "a painting of an ocean with clouds and birds, day time, low depth field effect"
PUBLISHED = (0.58, 0.27, -1.41, -2.03)
ADDRESS = "https://raw.githubusercontent.com/zai-org/ImageReward/main/assets/images"
_SHA256 = {
    "1.webp": "a5fcd126763da8b3fe2a9e620fc1ba03d215d20de36c77bf6770a540a9bc972d",
    "2.webp": "dc13919a49a37987d19c8be3ba0c1ef2941570f820f90fb66ac91a9a9db24082",
    "3.webp": "ee859bac167e6a04cbcde63454757b6fc7d9b8704429c15725ca8c4accf176e3",
    "4.webp": "84faf59d59d9ca7ab298c9acb957d727365ae104768ac1a1ec55ab96be68aaf9",
}


def example_images(source: str = ADDRESS) -> list[Path]:
    """Return the paths of the four images, downloaded if necessary and verified.

    Args:
        source: URL of the folder with the images, or a local folder.

    Raises:
        HubError: a download failed.
        ImageError: a file is missing, or it is not the published image.
    """
    if "://" not in source:
        paths = [Path(source, name) for name in _SHA256]
    else:
        paths = [_fetch(f"{source.rstrip('/')}/{name}", name) for name in _SHA256]
    for path in paths:
        if not path.is_file():
            raise ImageNotFoundError(str(path), "no such file")
        if hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256[path.name]:
            raise ImageError(str(path), "not the published example image (its SHA-256 differs)")
    return paths


def _fetch(url: str, name: str) -> Path:
    from torch.hub import download_url_to_file, get_dir

    path = Path(get_dir(), "reward-core", "example", name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            download_url_to_file(url, os.fspath(path), hash_prefix=_SHA256[name], progress=False)
        except RuntimeError as error:  # raised if the hash differs
            raise ImageError(url, f"not the published example image: {error}") from error
        except (URLError, OSError, HTTPException) as error:
            raise HubError(
                f"Cannot download '{url}': {error}. If you have the images, run "
                "`reward-core example --images FOLDER`."
            ) from error
    return path
