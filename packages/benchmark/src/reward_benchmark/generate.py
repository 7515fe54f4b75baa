"""Images of a diffusion model for Table 1: every prompt, ten seeds, as files that ``run table1`` ranks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from reward_core.errors import InputError
from reward_core.files.atomic_write import atomic_write
from reward_core.files.full_disk import raise_if_full
from reward_core.files.json_file import read_json, write_json
from reward_core.runs.progress import bar
from reward_core.runs.run_lock import folder_lock

if TYPE_CHECKING:
    import torch

    from refl.compare import ImageSettings

SETTINGS = "settings.json"


def generate(
    model: str,
    lora: str | None,
    prompts: list[tuple[str, str]],
    folder: Path,
    settings: ImageSettings,
    device: torch.device,
) -> int:
    """Write ID_NUMBER.png for each prompt and seed into ``folder``; those already there are kept.

    Args:
        model: hub id, pipeline folder or single file.
        lora: folder of LoRA weights upon it.
        prompts: (id, prompt).
        folder: of this generator; settings.json in it tells how its images were made.
        settings: ``seeds`` images a prompt.

    Returns:
        How many were made.

    Raises:
        InputError: the folder holds images that were made otherwise.
        OutputError: another run is using the folder.
        DiskFullError: no space is left; finished images are kept.
        refl.errors.ModelError: a model that cannot be loaded.
    """
    try:
        with folder_lock(folder, ".generate.lock"):
            return _generate(model, lora, prompts, folder, settings, device)
    except OSError as error:
        raise_if_full(error, folder)
        raise


def _generate(
    model: str,
    lora: str | None,
    prompts: list[tuple[str, str]],
    folder: Path,
    settings: ImageSettings,
    device: torch.device,
) -> int:
    from refl.compare import generate_images, load_model

    settings_used: dict[str, object] = {"model": model, "lora": lora, **asdict(settings)}
    del settings_used["batch_size"]  # of no effect on the images
    _check(folder, settings_used)
    samples = [
        (folder / f"{prompt_id}_{x}.png", prompt, i * settings.seeds + x)
        for i, (prompt_id, prompt) in enumerate(prompts)
        for x in range(settings.seeds)
    ]
    missing = [item for item in samples if not item[0].is_file()]
    if not missing:
        return 0
    family = load_model(lora or model, model, device)
    write_json(folder / SETTINGS, settings_used)
    paths = iter([path for path, _, _ in missing])
    with bar() as shown:
        task = shown.add_task("pictures", total=len(missing))
        for images in generate_images(family, [(prompt, x) for _, prompt, x in missing], settings):
            for image in images.permute(0, 2, 3, 1).numpy():
                _write_png(next(paths), image)
            shown.advance(task, len(images))
    return len(missing)


def _check(folder: Path, settings_used: dict[str, object]) -> None:
    path = folder / SETTINGS
    if not path.is_file():
        if folder.is_dir() and any(folder.glob("*.png")):
            raise InputError(f"{folder}: holds images of another origin; take another --name")
        return
    before = read_json(path, error=InputError)
    if not isinstance(before, dict):
        raise InputError(
            f"Cannot read '{path}': it must be a JSON object, got {before!r:.60}. Remove the folder, or give "
            "another --name."
        )
    other = [key for key in settings_used if before.get(key) != settings_used[key]]
    if other:
        message = ", ".join(f"{key} {before.get(key)!r}" for key in other)
        raise InputError(f"{folder}: its images were made with {message}; take another --name")


def _write_png(path: Path, pixels: np.ndarray) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
