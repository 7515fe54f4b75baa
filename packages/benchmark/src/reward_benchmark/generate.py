"""Generate images of a diffusion model for ``run table1``."""

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
    """Write ID_NUMBER.png for each prompt and seed; keep existing images.

    Args:
        model: Hub id, pipeline folder or single file.
        lora: folder of LoRA weights for the model; None: none.
        prompts: (id, prompt) pairs.
        folder: folder of this generator; its settings.json holds the model and the settings.
        settings: how to generate the images; ``seeds`` is the number of images per prompt.
        device: device of the model.

    Returns:
        The number of generated images.

    Raises:
        InputError: the folder has images of another model or other settings.
        OutputError: another run is using the folder.
        DiskFullError: no space is left; finished images are kept.
        refl.errors.ModelError: the model cannot be loaded.
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
    del settings_used["batch_size"]  # does not change the images
    _check_settings(folder, settings_used)
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
    with bar() as progress:
        task = progress.add_task("images", total=len(missing))
        for images in generate_images(family, [(prompt, x) for _, prompt, x in missing], settings):
            for image in images.permute(0, 2, 3, 1).numpy():
                _write_png(next(paths), image)
            progress.advance(task, len(images))
    return len(missing)


def _check_settings(folder: Path, settings_used: dict[str, object]) -> None:
    path = folder / SETTINGS
    if not path.is_file():
        if folder.is_dir() and any(folder.glob("*.png")):
            raise InputError(
                f"Cannot generate images into '{folder}': it has images but no {SETTINGS}. Give another "
                "--name."
            )
        return
    before = read_json(path, error=InputError)
    if not isinstance(before, dict):
        raise InputError(
            f"Cannot read '{path}': it must be a JSON object, got {before!r:.60}. Remove the folder, or give "
            "another --name."
        )
    differing = [key for key in settings_used if before.get(key) != settings_used[key]]
    if differing:
        values = ", ".join(f"{key} {before.get(key)!r}" for key in differing)
        raise InputError(
            f"Cannot add images to '{folder}': its images were generated with {values}. Use the same "
            "options, or give another --name."
        )


def _write_png(path: Path, pixels: np.ndarray) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
