"""What the model card of a base model says about its license."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from reward_core.hub.reachability import hub_failure

CARD = "README.md"
LICENSE_KEYS = ("license", "license_name", "license_link")


def base_license(model: str, revision: str | None = None) -> dict[str, str]:
    """Return the license of a base model as keys of a model card.

    Args:
        model: hub id, or a local folder or file.
        revision: branch, tag or commit on the hub.

    Returns:
        ``license``, and ``license_name`` and ``license_link`` if its card has them; empty if no card states a
        license.
    """
    path = _card_path(model, revision)
    data = {} if path is None else _front_matter(path)
    found = {key: data[key] for key in LICENSE_KEYS if isinstance(data.get(key), str)}
    if "license" not in found:
        return {}
    link = found.get("license_link", "")
    if link and not link.startswith(("http://", "https://")):  # a file of the base model's repository
        if os.path.exists(model):
            del found["license_link"]
        else:
            found["license_link"] = f"https://huggingface.co/{model}/blob/{revision or 'main'}/{link}"
    return found


def _card_path(model: str, revision: str | None) -> Path | None:
    """Return the local path of a model's card, downloaded if needed, or None."""
    if os.path.exists(model):
        path = Path(model, CARD)
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download

    try:
        return Path(
            hf_hub_download(model, CARD, revision=revision, local_files_only=hub_failure() is not None)
        )
    except Exception:  # the card is a courtesy: a run must not fail at its end for it
        return None


def _front_matter(path: Path) -> dict[str, Any]:
    from huggingface_hub import ModelCard

    try:
        return ModelCard.load(path).data.to_dict()
    except Exception:  # foreign YAML; without it the license stays unknown
        return {}
