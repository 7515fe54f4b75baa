"""Build the docs site: docs/, the pages it links to, the API and the settings, through Zensical.

    hatch run docs               # in the environment "docs", which has Zensical
    python tools/build_docs.py --pages-only

Pages outside docs/ that a page links to (READMEs, model cards) are copied to repository/ in the site. Links
to other files of the repository become plain text. The reference comes from docstrings and config
dataclasses, read without importing the packages.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BUILD = ROOT / "build/docs"
COPIED = "repository"  # folder of the pages from outside docs/
SOURCES = {
    "reward_core": ROOT / "packages/reward-core/src/reward_core",
    "refl": ROOT / "packages/refl/src/refl",
    "reward_benchmark": ROOT / "packages/benchmark/src/reward_benchmark",
}
# Page of the API reference -> modules whose public names (__all__, or the given ones) it documents.
API = {
    "reward_core": {
        "reward_core": None,
        "reward_core.errors": [],
        "reward_core.bulk": None,
        "reward_core.metadata": None,
        "reward_core.rankings": None,
        "reward_core.training": ["Trainer", "TrainingConfig", "load_settings"],
        "reward_core.integrations.diffusers": None,
        "reward_core.integrations.torchmetrics": ["RewardScore"],
        "reward_core.shapes": ["make_groups", "write_groups", "oracle", "parse", "render_scene"],
    },
    "refl": {"refl": None, "refl.families": ["Family", "Condition", "Guidance", "family_of", "load_family"]},
    "reward_benchmark": {
        "reward_benchmark.run": ["RunConfig", "run"],
        "reward_benchmark.run_files": ["read_summary"],
        "reward_benchmark.suites": ["Group", "Part", "SuiteOptions"],
        "reward_benchmark.metrics": None,
    },
}
# Title -> (module, class of the config, prefix of its settings).
SETTINGS = {
    "reward-core train": [("reward_core.training.config", "TrainingConfig", "")],
    "reward-core score": [("reward_core.bulk.settings", "BulkSettings", "")],
    "refl train": [
        ("refl.config.sections", "ModelConfig", "model."),
        ("refl.config.sections", "RolloutConfig", "rollout."),
        ("refl.config.strategy", "StrategyConfig", "strategy."),
        ("refl.config.sections", "RewardConfig", "rewards[]."),
        ("refl.config.sections", "LossConfig", "loss."),
        ("refl.config.sections", "OptimizerConfig", "optimizer."),
        ("refl.config.sections", "ValidationConfig", "validation."),
        ("refl.config.sections", "RunConfig", "run."),
    ],
    "reward-benchmark run": [("reward_benchmark.run", "RunConfig", "")],
}


@dataclass(frozen=True)
class Setting:
    """A field of a config dataclass: name, type, default and meaning as text."""

    name: str
    type: str
    default: str
    meaning: str


def main() -> int:
    parser = argparse.ArgumentParser(description="build the docs site into site/")
    parser.add_argument("--pages-only", action="store_true", help="write the Markdown pages, do not build")
    arguments = parser.parse_args()
    shutil.rmtree(BUILD, ignore_errors=True)
    copy_pages()
    write_reference()
    if arguments.pages_only:
        return 0
    shutil.rmtree(ROOT / "site", ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=ROOT).returncode


def copy_pages() -> None:
    """Copy docs/ and every page that it links to, with links that work in the site."""
    shutil.copytree(DOCS, BUILD, ignore=shutil.ignore_patterns("*.md"))
    waiting, done = sorted(DOCS.rglob("*.md")), set()
    while waiting:
        page = waiting.pop()
        if page in done:
            continue
        done.add(page)
        text, linked = rewrite_links(page, page.read_text(encoding="utf-8"))
        target = BUILD / site_path(page)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(without_front_matter(text), encoding="utf-8")
        waiting += linked


def rewrite_links(page: Path, text: str) -> tuple[str, list[Path]]:
    """Return the text with the site's links, and the pages outside docs/ that it links to."""
    linked = []

    def replace(match: re.Match) -> str:
        label, target = match[1], match[2]
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve()
        if re.match(r"[a-z]+:", target) or not path:
            return match[0]
        if file.suffix == ".md":
            linked.append(file)
        elif DOCS not in file.parents or not file.is_file():
            if file.suffix != ".png":
                return label.strip("[]")  # a folder or a source file: only its name
            copy = BUILD / site_path(file)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
        new = os.path.relpath(site_path(file), site_path(page).parent)
        return f"{label}({Path(new).as_posix()}{'#' + anchor if anchor else ''})"

    return re.sub(r"(!?\[[^\]\n]*(?:\n[^\]\n]*)?\])\(([^)\s]+)\)", replace, text), linked


def site_path(file: Path) -> Path:
    """Return where a file of the repository is in the site, relative to its root."""
    if file == DOCS or DOCS in file.parents:
        return file.relative_to(DOCS)
    return Path(COPIED) / file.relative_to(ROOT)


def without_front_matter(text: str) -> str:
    """Return a model card without its YAML header, which is for the hub."""
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)


def write_reference() -> None:
    """Write the pages of the API and of the settings."""
    folder = BUILD / "reference"
    folder.mkdir()
    for page, modules in API.items():
        lines = [f"# {page}", ""]
        for module, names in modules.items():
            lines += [f"## {module}", ""]
            for name in public_names(module) if names is None else names or public_classes(module):
                lines += [f"::: {module}.{name}", ""]
        (folder / f"{page}.md").write_text("\n".join(lines), encoding="utf-8")
    lines = [
        "# Settings",
        "",
        "Every setting of the commands. `reward-core train` and `refl train` take them as `--set key=value`",
        "or from a YAML file; in Python, they are the fields of the config dataclasses.",
        "",
    ]
    for title, configs in SETTINGS.items():
        lines += [f"## {title}", ""]
        for module, name, prefix in configs:
            lines += settings_table(module, name, prefix)
    (folder / "settings.md").write_text("\n".join(lines), encoding="utf-8")


def settings_table(module: str, name: str, prefix: str) -> list[str]:
    """Return the lines of a table with the fields of one config dataclass."""
    lines = [f"### `{module}.{name}`", "", "| setting | type | default | meaning |", "|---|---|---|---|"]
    for setting in read_settings(module, name):
        cells = [f"`{prefix}{setting.name}`", f"`{setting.type}`", f"`{setting.default}`", setting.meaning]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def read_settings(module: str, name: str) -> list[Setting]:
    """Return the fields of a dataclass, with the meanings of its docstring's "Attributes".

    Raises:
        ValueError: the module has no such class.
    """
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            meanings = attribute_meanings(ast.get_docstring(node) or "")
            return [
                Setting(
                    field.target.id,
                    ast.unparse(field.annotation),
                    default_of(field.value),
                    meanings.get(field.target.id, ""),
                )
                for field in node.body
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            ]
    raise ValueError(f"Cannot document {module}.{name}: no such class.")


def default_of(value: ast.expr | None) -> str:
    """Return a field's default as source text; "required" for a field without one."""
    if value is None:
        return "required"
    if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "field":
        keywords = {keyword.arg: keyword.value for keyword in value.keywords}
        if "default" in keywords:
            return ast.unparse(keywords["default"])
        return ast.unparse(keywords["default_factory"]) + "()"
    return ast.unparse(value)


def attribute_meanings(docstring: str) -> dict[str, str]:
    """Return name -> text of the "Attributes:" or "Args:" section of a Google-style docstring."""
    meanings: dict[str, str] = {}
    section = re.search(r"^(?:Attributes|Args):\n((?:[ ]{4}.*\n?|\n)+)", docstring, re.MULTILINE)
    name = ""
    for line in section[1].splitlines() if section else []:
        if match := re.match(r" {4}([\w, ]+): (.*)", line):
            name = match[1]
            meanings[name] = match[2].strip()
        elif name and line.strip():
            meanings[name] += " " + line.strip()
    return {each: text for names, text in meanings.items() for each in names.split(", ")}


def public_names(module: str) -> list[str]:
    """Return the names in a module's __all__ that are functions or classes."""
    for node in parse(module).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return [name for name in ast.literal_eval(node.value) if not name.isupper()]
    raise ValueError(f"Cannot document {module}: it has no __all__.")


def public_classes(module: str) -> list[str]:
    """Return the public classes that a module defines."""
    nodes = parse(module).body
    return [node.name for node in nodes if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]


def parse(module: str) -> ast.Module:
    """Return the syntax tree of one of our modules."""
    package, *parts = module.split(".")
    path = SOURCES[package].joinpath(*parts)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
