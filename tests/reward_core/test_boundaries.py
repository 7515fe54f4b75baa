"""Imports and dependencies of each package."""

import ast
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / "packages"
LATE = {"transformers", "huggingface_hub", "rich", "safetensors"}
NEVER = {"diffusers", "datasets", "accelerate", "timm", "torchvision", "peft", "pyarrow", "pandas", "gradio"}


def loaded_by(statement: str) -> set[str]:
    code = (
        f"import sys, json; {statement}; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_reward_core_does_not_load_heavy_libraries():
    loaded = loaded_by("import reward_core") - loaded_by("import torch")
    assert not loaded & (LATE | NEVER)
    assert {"reward_core", "tokenizers", "PIL"} <= loaded


def test_no_module_of_reward_core_loads_an_optional_dependency():
    import reward_core

    modules = [
        module.name
        for module in pkgutil.walk_packages(reward_core.__path__, "reward_core.")
        if "__main__" not in module.name and not module.name.startswith("reward_core.integrations.")
    ]
    assert len(modules) > 150
    assert not loaded_by(f"import {', '.join(modules)}") & NEVER


def test_scoring_does_not_load_the_hub_client_or_transformers(parity):
    folder = str(parity / "state_dict.pt")
    image = str(parity / "images/rgb.png")
    statement = f"import reward_core as R; R.load({folder!r}, 'cpu').score('a dog', {image!r})"
    assert not loaded_by(statement) & (NEVER | {"transformers", "huggingface_hub"})


@pytest.mark.parametrize("name", ["diffusers", "torchmetrics"])
def test_the_error_for_a_missing_library_names_the_extra(name):
    code = (
        f"import sys; sys.modules[{name!r}] = None; from reward_core.errors import MissingExtraError\n"
        f"try: import reward_core.integrations.{name}\nexcept MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f'pip install "reward-core[{name}]"' in done.stdout


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
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader")
    project = tomllib.loads((PACKAGES / "reward-core/pyproject.toml").read_text())["project"]
    names = {
        "".join(c if c.isalnum() or c in "_-" else " " for c in d).split()[0] for d in project["dependencies"]
    }
    assert names == {
        "torch", "transformers", "tokenizers", "huggingface_hub", "safetensors", "Pillow", "numpy", "rich",
        "filelock",
    }  # fmt: skip
