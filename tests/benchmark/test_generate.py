"""Images generated with a local model, and their ranking."""

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


@pytest.mark.slow
def test_images_are_generated_once_and_ranked(command, pipelines, prompts, tmp_path):
    done = command(*arguments(pipelines("sd"), prompts, "mine", "--batch-size", 2))
    assert done.returncode == 0, done.stderr
    folder = prompts.parent / "generations" / "mine"
    assert done.stderr.endswith(f"reward-benchmark: {folder}: 6 images generated, 0 existed\n")
    assert "Loading pipeline" not in done.stderr  # diffusers' progress bar
    names = sorted(path.name for path in folder.glob("*.png"))
    assert names == [f"{p['id']}_{x}.png" for p in sorted(PROMPTS, key=lambda p: p["id"]) for x in range(3)]
    images = {path.name: np.asarray(Image.open(path)) for path in folder.glob("*.png")}
    for name in names[1::2]:  # as after an interruption
        (folder / name).unlink()
    done = command(*arguments(pipelines("sd"), prompts, "mine"))
    assert "3 images generated, 3 existed" in done.stderr
    for name in names:  # other batches, so rounding may differ
        assert np.abs(images[name].astype(int) - np.asarray(Image.open(folder / name))).max() <= 1

    command(*arguments(pipelines("sd-v"), prompts, "other"))
    paths = ("--data", prompts.parent, "--out", tmp_path / "runs", "--offline")
    options = ("--generators", "mine,other", "--scorers", "tiny", "--device", "cpu", "--json")
    done = command("run", "table1", *paths, *options)
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout
    assert "other" in done.stdout


def test_a_folder_in_use_by_another_run_is_refused(command, pipelines, prompts):
    folder = prompts.parent / "generations" / "mine"
    folder.mkdir(parents=True)
    with FileLock(folder / ".generate.lock"):
        done = command(*arguments(pipelines("sd"), prompts, "mine"))
    assert done.returncode == 2
    assert f"Cannot use '{folder}': another run is using it" in done.stderr
    assert not list(folder.glob("*.png"))


@pytest.mark.parametrize("content", ["[1]", "{", "3"])
def test_invalid_settings_files_are_refused_by_name(command, pipelines, prompts, content):
    folder = prompts.parent / "generations" / "mine"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(content)
    done = command(*arguments(pipelines("sd"), prompts, "mine"))
    assert done.returncode == 2
    assert str(folder / "settings.json") in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_full_disk_is_a_one_line_error_and_keeps_finished_images(command, pipelines, prompts):
    """A limit on file sizes stands in for a full disk."""
    resource = pytest.importorskip("resource", reason="this system has no such limits")
    assert command(*arguments(pipelines("sd"), prompts, "mine")).returncode == 0
    folder = prompts.parent / "generations" / "mine"
    (folder / f"{PROMPTS[0]['id']}_0.png").unlink()
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (folder / "settings.json").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        done = command(*arguments(pipelines("sd"), prompts, "mine"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.returncode == 2
    assert f"reward-benchmark: Cannot write to '{folder}': no space left" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept
    assert "1 images generated, 5 existed" in command(*arguments(pipelines("sd"), prompts, "mine")).stderr


def test_invalid_arguments_are_refused(command, pipelines, prompts, tmp_path):
    assert command(*arguments(pipelines("sd"), prompts, "mine")).returncode == 0
    for model, name, more, message in (
        (pipelines("sd"), "mine", ("--steps", 3), "its images were generated with steps 2"),
        (pipelines("sd-v"), "mine", (), "its images were generated with model"),
        (tmp_path, "other", (), "it has no model_index.json"),
        (pipelines("sd"), "../other", (), "Cannot use --name '../other': it must consist of letters"),
        (pipelines("sd"), "other", ("--lora", tmp_path / "none"), "none"),
    ):
        done = command(*arguments(model, prompts, name, *more))
        assert done.returncode == 2
        assert message in done.stderr
