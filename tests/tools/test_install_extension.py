"""`reward-core install-extension` and the WebUI extension's install.py, as commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reward_core.cli import main

ROOT = Path(__file__).parents[2]
SIGNS = {
    "webui": ["launch.py", "modules/scripts.py", "modules/processing.py"],
    "comfyui": ["main.py", "nodes.py", "execution.py", "folder_paths.py"],
}
TARGETS = {
    "webui": ("extensions/sd-webui-image-reward", ROOT / "tools" / "sd_webui"),
    "comfyui": ("custom_nodes/comfyui-reward-core", ROOT / "tools" / "comfyui"),
}


@pytest.fixture
def hosts(tmp_path):
    for name, files in SIGNS.items():
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).touch()
    return tmp_path


@pytest.fixture
def command(capsys):
    def command(*arguments):
        code = main(["install-extension", *map(str, arguments)])
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return command


def files(folder):
    """Return the relative paths of all relevant files."""
    files = {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
    return {file for file in files if "__pycache__" not in file.parts}


@pytest.mark.parametrize("name", SIGNS)
def test_the_whole_folder_is_copied_and_reported(command, hosts, name):
    where, source = TARGETS[name]
    done = command(name, hosts / name)
    assert (done.returncode, done.stderr) == (0, "")
    target = hosts / name / where
    assert files(target) - {Path("reward_core_source.json")} == files(source)
    assert f"copied {source}\n  to {target}\n" in done.stdout
    assert str(ROOT / "packages" / "reward-core") in done.stdout  # the source for the host's Python
    record = json.loads((target / "reward_core_source.json").read_text())
    assert record == {"source": str(ROOT / "packages" / "reward-core")}
    assert not [path for path in target.parent.iterdir() if path != target]


@pytest.mark.parametrize("name", SIGNS)
def test_link_links_to_the_checkout(command, hosts, name):
    where, source = TARGETS[name]
    done = command(name, hosts / name, "--link")
    target = hosts / name / where
    assert (done.returncode, target.is_symlink(), target.resolve()) == (0, True, source)
    assert done.stdout.startswith("linked ")
    assert not (source / "reward_core_source.json").exists()  # the checkout is not written into


def test_an_earlier_installation_is_replaced(command, hosts):
    target = hosts / "webui" / TARGETS["webui"][0]
    command("webui", hosts / "webui")
    (target / "scripts" / "old.py").touch()
    done = command("webui", hosts / "webui")
    assert "(replacing an earlier one)" in done.stdout
    assert not (target / "scripts" / "old.py").exists()
    command("webui", hosts / "webui", "--link")
    command("webui", hosts / "webui")
    assert not target.is_symlink()
    assert files(TARGETS["webui"][1]) <= files(target)


def test_other_files_are_not_touched(command, hosts):
    target = hosts / "comfyui" / TARGETS["comfyui"][0]
    target.mkdir(parents=True)
    (target / "theirs.py").touch()
    done = command("comfyui", hosts / "comfyui")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Cannot install into {target}: it exists and is not this extension" in done.stderr
    assert files(target) == {Path("theirs.py")}


def test_a_path_that_is_not_a_host_is_refused(command, hosts, tmp_path):
    for name, path, reason in [
        ("webui", tmp_path / "none", "no such folder"),
        (
            "webui",
            hosts / "comfyui",
            "has no launch.py, modules/scripts.py, modules/processing.py; it is ComfyUI",
        ),
        ("comfyui", hosts / "webui", "not the folder of ComfyUI"),
        ("webui", hosts, f"Try `reward-core install-extension webui {hosts / 'webui'}"),
        ("webui", hosts / "webui" / "modules", f"Try `reward-core install-extension webui {hosts / 'webui'}"),
    ]:
        done = command(name, path)
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (hosts / "webui" / "extensions").exists()
    assert not (hosts / "comfyui" / "custom_nodes").exists()


# install.py in a Python without reward-core


def install_py(folder, **settings):
    """Run install.py like the WebUI does; -S hides all installed packages."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment.pop("REWARD_CORE_SOURCE", None)
    command = [sys.executable, "-S", str(folder / "install.py")]
    return subprocess.run(command, capture_output=True, text=True, env={**environment, **settings})


def test_install_py_refuses_a_bare_name(command, hosts):
    command("webui", hosts / "webui")
    target = hosts / "webui" / TARGETS["webui"][0]
    for name in ("reward-core", "reward-core==1.0.0", "git+https://example.org/reward.git"):
        done = install_py(target, REWARD_CORE_SOURCE=name)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{name!r} is neither a path nor pinned" in done.stdout
        assert "installing" not in done.stdout
    (target / "reward_core_source.json").unlink()
    done = install_py(target)
    assert (done.returncode, done.stderr) == (0, "")
    assert "no source found" in done.stdout
    assert "pip install --no-deps ./packages/reward-core" in done.stdout


@pytest.mark.slow
def test_install_py_installs_the_recorded_source(command, hosts, tmp_path):
    """The recorded folder is empty, so pip fails and the test installs nothing."""
    command("webui", hosts / "webui")
    target, empty = hosts / "webui" / TARGETS["webui"][0], tmp_path / "no package"
    empty.mkdir()
    (target / "reward_core_source.json").write_text(json.dumps({"source": str(empty)}))
    done = install_py(target, PIP_DRY_RUN="1")
    assert f"installing reward-core from {empty}" in done.stdout
    assert done.returncode != 0
    assert "'-m', 'pip', 'install', '--no-deps'" in done.stderr
