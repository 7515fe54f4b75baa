"""Build and install a Python package with a scorer in a folder on sys.path, as pip would."""

from __future__ import annotations

from pathlib import Path

SPEC = """
from reward_core.hub.file_specs import PackageFile
from reward_core.models.model_spec import ModelSpec, Part
from reward_core.models.scorer_facts import ScorerFacts

PARTS = {
    "weights": Part(PackageFile("PACKAGE", "model.safetensors"), ("model.safetensors",)),
    "config": Part(PackageFile("PACKAGE", "config.json"), ("config.json",)),
    "tokenizer": Part(PackageFile("PACKAGE", "tokenizer.json"), ("tokenizer.json",)),
}
FACTS = ScorerFacts("a tiny CLIP", 200_000, 0.001, "CPU", "-1 to 1", "none")
SPEC = ModelSpec("reward_core.models.clip.scorer:ClipScorer", PARTS, None, FACTS)
"""


def install(site: Path, package: str, entry_points: dict[str, str], code: str = SPEC) -> Path:
    """Write a package and its dist-info to ``site`` and return the folder of the package.

    Args:
        site: a folder on sys.path.
        package: name of the package.
        entry_points: name of a scorer -> "module:OBJECT".
        code: content of the package's ``__init__.py``; PACKAGE stands for its name.
    """
    folder, about = site / package, site / f"{package}-1.0.dist-info"
    folder.mkdir()
    about.mkdir()
    (folder / "__init__.py").write_text(code.replace("PACKAGE", package))
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in entry_points.items())
    (about / "entry_points.txt").write_text(f"[reward_core.scorers]\n{lines}")
    return folder
