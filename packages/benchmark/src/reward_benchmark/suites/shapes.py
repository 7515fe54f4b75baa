"""ShapesBench as a suite: renderers for Table 1, held-out groups for Table 3."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from reward_core.errors import InputError
from reward_core.files.json_file import parse_json
from reward_core.inputs.image_file import image_name
from reward_core.rankings import RANKINGS_FILE, RankedPrompt, read_rankings
from reward_core.runs.progress import progress
from reward_core.shapes import HELD_OUT, load_split, make_groups, phrase, sample_scene, write_groups

from .base import Group, Part, SuiteOptions
from .shapes_renderers import RENDERERS, render

PROMPTS, IMAGES, GROUPS = 100, 10, 1000
SEED = 40127  # seed of Table 1's prompts and images


def build(options: SuiteOptions) -> list[Part]:
    """Build both parts and draw missing images, which are the same on every machine.

    Raises:
        InputError: an unknown renderer.
    """
    revision = f"ShapesBench {load_split().version}"
    return [
        _generators(options, revision),
        _preference(options, revision),
    ]


def _generators(options: SuiteOptions, revision: str) -> Part:
    names = list(RENDERERS) if tuple(options.generators) in (("default",), ("all",)) else options.generators
    if unknown := [name for name in names if name not in RENDERERS]:
        raise InputError(
            f"Cannot use the renderers {', '.join(unknown)}: unknown. Use some of {', '.join(RENDERERS)}."
        )
    scenes = [_scene(i) for i in range(min(PROMPTS, options.limit or PROMPTS))]
    groups = []
    for name in progress(names, "drawing", len(names)):
        folder = options.data / "renderers" / name
        folder.mkdir(parents=True, exist_ok=True)
        for i, (scene, prompt) in enumerate(scenes):
            files = [folder / f"{i:03d}_{x}.png" for x in range(IMAGES)]
            for x, file in enumerate(files):
                if not file.is_file():
                    seed = [SEED, 1, list(RENDERERS).index(name), i, x]
                    _write_png(file, render(RENDERERS[name], scene, np.random.default_rng(seed)))
            relative = tuple(f"renderers/{name}/{file.name}" for file in files)
            groups.append(Group(f"{i:03d}", prompt, tuple(files), relative, generator=name))
    return Part(
        "renderers",
        "Renderers, ranked by the oracle",
        "generators",
        tuple(groups),
        reference_scorer="oracle",
        titles={name: RENDERERS[name].title for name in names},
        revision=revision,
    )


def _scene(index: int):
    rng = np.random.default_rng([SEED, 0, index])
    scene = sample_scene(rng, "held_out")
    return scene, phrase(scene, rng)


def _preference(options: SuiteOptions, revision: str) -> Part:
    count = min(GROUPS, options.limit or GROUPS)
    folder = options.data / "held_out"
    if _written(folder) < count:
        write_groups(progress(make_groups(count, HELD_OUT, "held_out"), "drawing", count), folder)
    groups = tuple(_ranked_group(item, folder) for item in read_rankings(folder)[:count])
    return Part("held_out", "Held-out groups, ranked by the truth", "preference", groups, revision=revision)


def _ranked_group(item: RankedPrompt, folder: Path) -> Group:
    images = tuple(Path(image_name(image)) for image in item.images)
    names = tuple(f"held_out/{image.relative_to(folder).as_posix()}" for image in images)
    return Group(item.id, item.prompt, images, names, ranks=item.ranks)


def _written(folder: Path) -> int:
    """Return the number of groups listed in rankings.json, which is written last."""
    try:
        rows = parse_json((folder / RANKINGS_FILE).read_text())
        return len(rows) if rows[0]["world_version"] == load_split().version else 0
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def _write_png(path: Path, pixels: np.ndarray) -> None:
    png = BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(png.getvalue())
    os.replace(temporary, path)
