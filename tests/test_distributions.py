"""The wheels of all packages, built and installed together into an empty environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"reward-core": "reward-core", "refl": "refl", "reward-benchmark": "benchmark"}
MODULES = {"reward-core": "reward_core", "refl": "refl", "reward-benchmark": "reward_benchmark"}


def run(*command, cwd=None) -> str:
    """Return what a command prints on stdout; it must exit with 0 and must not see the checkout."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run([str(c) for c in command], cwd=cwd, env=clean, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("dist")
    for package in FOLDERS.values():
        run(
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "-t",
            "wheel",
            "-d",
            folder,
            cwd=ROOT / "packages" / package,
        )
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheels, tmp_path_factory) -> Path:
    """The bin/ of an environment with the three wheels, which finds their dependencies in this one."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin/python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", "--no-cache-dir", *wheels)
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    ours = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "dependencies.pth").write_text("\n".join(ours) + "\n")
    return folder / "bin"


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="paths of an environment are those of Linux and macOS"),
]


def test_each_package_builds_one_wheel(wheels):
    assert [wheel.name.split("-")[0] for wheel in wheels] == ["refl", "reward_benchmark", "reward_core"]


@pytest.mark.parametrize("command", FOLDERS)
def test_an_installed_command_prints_its_version(environment, command, tmp_path):
    assert run(environment / command, "--version", cwd=tmp_path).startswith(f"{command} ")


@pytest.mark.parametrize("command", FOLDERS)
def test_an_installed_package_is_the_wheels(environment, command, tmp_path):
    module = MODULES[command]
    place = run(environment / "python", "-c", f"import {module}; print({module}.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(environment.parent)


def test_an_installed_model_ranks_images(environment, tmp_path):
    code = """
from glob import glob
import reward_core as RM
from reward_core import shapes
shapes.write_groups(shapes.make_groups(1, shapes.HELD_OUT, "held_out"), "groups")
ranks, _ = RM.load("tiny", device="cpu").inference_rank("a red star", sorted(glob("groups/images/*/*")))
print(len(ranks))
"""
    (tmp_path / "script.py").write_text(code)
    assert int(run(environment / "python", "script.py", cwd=tmp_path)) >= 4


def test_the_extensions_are_in_the_wheel(environment, tmp_path):
    host = tmp_path / "ComfyUI"
    (host / "custom_nodes").mkdir(parents=True)
    for name in ("main.py", "nodes.py", "execution.py", "folder_paths.py"):
        (host / name).touch()
    run(environment / "reward-core", "install-extension", "comfyui", host, cwd=tmp_path)
    assert list((host / "custom_nodes").iterdir())
