"""What an import loads, and what each package asks for."""

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


def test_importing_reward_core_loads_nothing_heavy():
    own = loaded_by("import reward_core") - loaded_by("import torch")
    assert not own & (LATE | NEVER)
    assert {"reward_core", "tokenizers", "PIL"} <= own


def test_no_module_of_reward_core_loads_a_library_of_an_extra():
    import reward_core

    modules = [
        module.name
        for module in pkgutil.walk_packages(reward_core.__path__, "reward_core.")
        if "__main__" not in module.name and not module.name.startswith("reward_core.integrations.")
    ]
    assert len(modules) > 150
    assert not loaded_by(f"import {', '.join(modules)}") & NEVER


def test_scoring_loads_no_hub_client_and_no_transformers(parity):
    folder = str(parity / "state_dict.pt")
    image = str(parity / "images/rgb.png")
    statement = f"import reward_core as R; R.load({folder!r}, 'cpu').score('a dog', {image!r})"
    assert not loaded_by(statement) & (NEVER | {"transformers", "huggingface_hub"})


@pytest.mark.parametrize("name", ["diffusers", "torchmetrics"])
def test_an_integration_without_its_library_names_the_extra(name):
    code = (
        f"import sys; sys.modules[{name!r}] = None; from reward_core.errors import MissingExtraError\n"
        f"try: import reward_core.integrations.{name}\nexcept MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f'pip install "reward-core[{name}]"' in done.stdout


def test_shapes_imports_numpy_and_pillow_only():
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
