"""Imports and dependencies of each package."""

import ast
import importlib.metadata
import json
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from reward_core.errors import MissingExtraError

PACKAGES = Path(__file__).parents[2] / "packages"
LATE = {"transformers", "huggingface_hub", "rich", "safetensors"}
SLOW = {"torch", "transformers", "diffusers", "numpy", "PIL", "huggingface_hub"}
NEVER = {"diffusers", "datasets", "accelerate", "timm", "torchvision", "peft", "pyarrow", "pandas", "gradio"}


def modules_after(statement: str) -> set[str]:
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def loaded_by(statement: str) -> set[str]:
    return {module.split(".")[0] for module in modules_after(statement)}


@pytest.mark.parametrize("package", ["reward_core", "refl", "reward_benchmark"])
def test_importing_a_package_loads_no_torch(package):
    assert not loaded_by(f"import {package}") & SLOW


@pytest.mark.slow
def test_the_first_use_of_load_imports_nothing_heavy_but_torch():
    modules = loaded_by("import reward_core; reward_core.load") - loaded_by("import torch")
    assert not modules & (LATE | NEVER)
    assert {"reward_core", "tokenizers", "PIL"} <= modules


@pytest.mark.parametrize("package", ["reward_core", "refl"])
def test_a_package_lists_its_names_before_they_are_imported(package):
    code = f"import {package} as p; assert set(p.__all__) <= set(dir(p)); p.no_such_name"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"module '{package}' has no attribute 'no_such_name'" in done.stderr


@pytest.mark.parametrize(
    ("module", "commands"),
    [
        (
            "reward_core.cli",
            [["models"], ["score", "--help"], ["sort", "--help"], ["rank"], ["no-such-command"]],
        ),
        ("refl.cli", [["train", "--help"], ["compare", "--help"], ["train", "--no-such-flag"]]),
        ("reward_benchmark.cli", [["run", "--help"], ["generate", "--help"], ["run", "no-such-suite"]]),
    ],
)
def test_help_versions_and_usage_errors_load_no_torch(module, commands):
    code = f"""
import contextlib, io, json, sys
from {module} import main
for arguments in {[["--help"], ["--version"], *commands]}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(arguments)
print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(json.loads(done.stdout)) & SLOW


KERNELS = (
    "resize_kernel",
    "add_norm_kernel",
    "triton_trial_kernel",
)  # imported only where Triton is installed


@pytest.mark.slow
def test_no_module_of_reward_core_loads_an_optional_dependency():
    import reward_core

    modules = [
        module.name
        for module in pkgutil.walk_packages(reward_core.__path__, "reward_core.")
        if "__main__" not in module.name
        and not module.name.startswith("reward_core.integrations.")
        and not module.name.endswith(KERNELS)
    ]
    assert len(modules) > 150
    assert not loaded_by(f"import {', '.join(modules)}") & NEVER


@pytest.mark.slow
def test_scoring_loads_no_hub_client_transformers_or_compiler(parity):
    folder = str(parity / "state_dict.pt")
    image = str(parity / "images/rgb.png")
    statement = f"import reward_core as R; R.load({folder!r}, 'cpu').score('a dog', {image!r})"
    modules = modules_after(statement)
    assert not modules & (NEVER | {"transformers", "huggingface_hub"})
    assert "torch._dynamo" not in modules  # importing it takes a second


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diffusers", "torchmetrics"])
def test_an_integration_without_its_library_says_what_to_install(name):
    code = (
        f"import sys; sys.modules[{name!r}] = None; from reward_core.errors import MissingExtraError\n"
        f"try: import reward_core.integrations.{name}\nexcept MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f'`pip install "./packages/reward-core[{name}]"`' in done.stdout


def test_shapes_imports_only_numpy_and_pillow():
    files = sorted((PACKAGES / "reward-core/src/reward_core/shapes").rglob("*.py"))
    imported = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"numpy", "PIL"}


def test_dependencies_of_the_package():
    project = tomllib.loads((PACKAGES / "reward-core/pyproject.toml").read_text())["project"]
    names = {
        "".join(c if c.isalnum() or c in "_-" else " " for c in d).split()[0] for d in project["dependencies"]
    }
    assert names == {
        "torch", "transformers", "tokenizers", "huggingface_hub", "safetensors", "Pillow", "numpy", "rich",
        "filelock", "ftfy",
    }  # fmt: skip


def test_all_missing_libraries_of_an_extra_are_reported_at_once(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name in ("accelerate", "matplotlib"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    message = str(MissingExtraError("train", "accelerate"))
    assert "accelerate and matplotlib are not installed. Run `pip install " in message
    assert '"./packages/reward-core[train]"' in message
