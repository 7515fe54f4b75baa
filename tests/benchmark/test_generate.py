"""Images of one's own model, ranked among others."""

import json

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

PROMPTS = [{"id": "000904-0035", "prompt": "a red circle"}, {"id": "000800-0001", "prompt": "a blue square"}]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "data" / "benchmark-prompts.json"
    path.parent.mkdir()
    path.write_text(json.dumps(PROMPTS))
    return path


def arguments(model, prompts, name, *more):
    folder = prompts.parent / "generations"
    return ["generate", "--model", model, "--name", name, "--out", folder, "--prompts", prompts, "--seeds", 3,
            "--steps", 2, "--height", 16, "--guidance-scale", 2, "--device", "cpu", *more]  # fmt: skip


def test_images_are_made_once_and_ranked(command, pipelines, prompts, tmp_path):
    done = command(*arguments(pipelines("sd"), prompts, "mine", "--batch-size", 2))
    assert done.returncode == 0, done.stderr
    assert "6 images made, 0 were there" in done.stderr
    folder = prompts.parent / "generations" / "mine"
    names = sorted(path.name for path in folder.glob("*.png"))
    assert names == [f"{p['id']}_{x}.png" for p in sorted(PROMPTS, key=lambda p: p["id"]) for x in range(3)]
    images = {path.name: np.asarray(Image.open(path)) for path in folder.glob("*.png")}
    for name in names[1::2]:  # as after a kill
        (folder / name).unlink()
    done = command(*arguments(pipelines("sd"), prompts, "mine"))
    assert "3 images made, 3 were there" in done.stderr
    for name in names:  # the batch is another one: rounding may differ
        assert np.abs(images[name].astype(int) - np.asarray(Image.open(folder / name))).max() <= 1

    command(*arguments(pipelines("sd-v"), prompts, "other"))
    paths = ("--data", prompts.parent, "--out", tmp_path / "runs", "--offline")
    options = ("--generators", "mine,other", "--scorers", "tiny", "--device", "cpu", "--json")
    done = command("run", "table1", *paths, *options)
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout
    assert "other" in done.stdout


def test_a_folder_that_another_run_is_filling_is_refused(command, pipelines, prompts):
    folder = prompts.parent / "generations" / "mine"
    folder.mkdir(parents=True)
    with FileLock(folder / ".generate.lock"):
        done = command(*arguments(pipelines("sd"), prompts, "mine"))
    assert done.returncode == 2
    assert f"Cannot use '{folder}': another run is using it" in done.stderr
    assert not list(folder.glob("*.png"))


def test_mistakes(command, pipelines, prompts, tmp_path):
    assert command(*arguments(pipelines("sd"), prompts, "mine")).returncode == 0
    for model, name, more, message in (
        (pipelines("sd"), "mine", ("--steps", 3), "its images were made with steps 2"),
        (pipelines("sd-v"), "mine", (), "its images were made with model"),
        (tmp_path, "other", (), "no pipeline's folder"),
        (pipelines("sd"), "../other", (), "--name: letters"),
        (pipelines("sd"), "other", ("--lora", tmp_path / "none"), "none"),
    ):
        done = command(*arguments(model, prompts, name, *more))
        assert done.returncode == 2
        assert message in done.stderr
