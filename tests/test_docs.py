"""Python blocks, commands and links of the READMEs and docs/.

Nothing is listed by name; what is done with a block follows from what it needs:

- Python that asks for nothing of the hub's, or only for models that a bundled one can stand in for, is run:
  in order, one namespace a page, in a folder of generated images and files under the docs' names.
- Python that names another hub repository, or trains, is compiled, and every name it takes from our packages
  must be there.
- Commands are parsed by the real parsers, tools too; those of reward-core that take images or files run.
"""

import argparse
import ast
import glob
import importlib
import io
import json
import re
import runpy
import shlex
import shutil
import sys
import tomllib
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import judge_server
import pyarrow.parquet
import pytest
import tiny_pipelines
import torch
from PIL import Image, PngImagePlugin

import reward_core as RM
from refl import families
from reward_benchmark import scorers
from reward_core import shapes
from reward_core.models.registry import BUILT_IN

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("packages/*/README.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
]
OURS = ("reward_core", "refl", "reward_benchmark")
# Commands that need only the files of the folder, and take seconds.
RUN = {
    ("reward-core", name)
    for name in ("rank", "score", "evaluate", "check-precision", "models", "convert", "tag", "sort")
}
PROGRAMS = {"reward-core", "refl", "reward-benchmark"}
OTHERS = {"hf", "git", "torchrun", "cd", "export", "hatch", "pip", ".ci/run", "docker", "curl", "vllm"}
# Scorers with files on the hub or the web.
DOWNLOADED = [name for name, spec in BUILT_IN.items() if spec.downloads()]
SERVER = "http://localhost:8000/v1"
SERVERS: dict[str, str] = {}  # SERVER -> URL of its stand-in
PROMPT = "a small red circle above a big blue square"


# Blocks


def blocks(page: Path) -> list[tuple[str, int, str]]:
    """(language, line number, text) of the fenced and the indented blocks; indented ones are "indented"."""
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    i = 0
    while i < len(lines):
        if fence := re.match(r"( *)(`{3,}|~{3,})\s*(\w*)", lines[i]):
            end = next(j for j in range(i + 1, len(lines)) if lines[j].strip().startswith(fence[2]))
            text = "\n".join(line.removeprefix(fence[1]) for line in lines[i + 1 : end])
            found.append((fence[3], i + 1, text))
            i = end + 1
        elif lines[i].startswith("    ") and (i == 0 or not lines[i - 1].strip()):
            end = i
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            found.append(("indented", i + 1, "\n".join(line[4:] for line in lines[i:end]).rstrip()))
            i = end
        else:
            i += 1
    return found


def commands(text: str) -> list[list[str]]:
    """Return the words of each command; continued lines are joined, comments and optional parts removed."""
    found = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        for part in line.split("&&"):
            words = shlex.split(part.strip().removeprefix("$ "), comments=True)
            words = [word.strip("[]") if "=" not in word else word for word in words]
            if words := [word for word in words if word not in ("...", "")]:
                found.append(words)
    return found


def is_shell(language: str, text: str) -> bool:
    if language in ("sh", "bash", "shell", "console"):
        return True
    first = text.split()[0] if text.split() else ""
    return language in ("indented", "") and (first in PROGRAMS | OTHERS or first.endswith("python"))


def cases(wanted) -> list:
    """The pages with a block (language, text) that is wanted, as parameters of a test."""
    return [
        pytest.param(page, id=str(page.relative_to(ROOT)))
        for page in PAGES
        if any(wanted(language, text) for language, _, text in blocks(page))
    ]


# The folder in which all is run


@pytest.fixture
def folder(files_of_docs, tmp_path, monkeypatch):
    """A folder with a copy of the files, which is the current one."""
    shutil.copytree(files_of_docs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))  # for answers of judges
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))  # the how-tos register their own
    monkeypatch.setattr(scorers, "BASELINES", dict(scorers.BASELINES))
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def vlm_server():
    """A server for the URL that the docs use."""
    with judge_server.serve() as judge:
        judge.serving.append("Qwen/Qwen2.5-VL-7B-Instruct")
        SERVERS[SERVER] = judge.url
        yield


@pytest.fixture(scope="module")
def files_of_docs(tmp_path_factory):
    """Images and files under the names that the docs use."""
    root = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_files()
    return root


def write_files():
    shapes.write_groups(shapes.make_groups(2, shapes.HELD_OUT, "held_out"), "held_out")
    records = json.loads(Path("held_out/rankings.json").read_text())
    Path("pictures").mkdir()
    for name, source in zip(("a", "b", "c"), records[0]["generations"]):
        for target in (f"{name}.png", f"pictures/{name}.png"):
            shutil.copy(Path("held_out", source), target)
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", f"{PROMPT}\nSteps: 20, Sampler: Euler, Seed: 1")
    for drawn in Path("pictures").iterdir():
        with Image.open(drawn) as image:
            image.save(drawn, pnginfo=info)
    torch.manual_seed(0)
    tiny_pipelines.sd().save_pretrained("my-pipeline")
    Path("prompts.json").write_text(json.dumps({"a.png": PROMPT, "b.png": PROMPT}))
    Path("prompts.txt").write_text(PROMPT + "\n")
    shutil.copytree("held_out/images", "images")
    shutil.copy("held_out/rankings.json", "rankings.json")
    Path("data").mkdir()
    shutil.copytree("held_out/images", "data/images")
    for split in ("train", "validation", "test"):
        shutil.copy("held_out/rankings.json", f"data/{split}.json")
    parity = ROOT / "tests" / "data" / "parity"
    for source, name in (("state_dict.pt", "ImageReward.pt"), ("vocab.txt",) * 2, ("config.json",) * 2):
        shutil.copy(parity / source, name)
    for target in ("my-folder", "runs/mine"):
        RM.load("tiny", device="cpu").save_pretrained(target)
    Path("lettering.yaml").write_text("""text: 'Is "{prompt}" legible?'\nkind: yes_no\n""")
    pairs = [{"prompt": PROMPT, "image": f"pictures/{name}.png"} for name in "abc"]
    table = pyarrow.Table.from_pylist(pairs)
    pyarrow.parquet.write_table(table, "pairs.parquet")
    scores = [{"row": i, **pair, "score": float(i), "error": None} for i, pair in enumerate(pairs)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(scores), "scores.parquet")
    Path("mine.csv").write_text(f"text,chosen,rejected\n{PROMPT},a.png,b.png\n")
    for name in "abc":
        Path("pictures", f"{name}.txt").write_text(PROMPT)


# Python


@pytest.mark.parametrize("page", cases(lambda language, text: language == "python"))
def test_python_blocks(page, folder):
    namespace = {
        "__name__": "page",
        "prompts": [PROMPT, "a green star"],
        "images": ["a.png", "b.png"],
        "pixels": torch.rand(2, 3, 80, 64, requires_grad=True),
    }
    for language, line, text in blocks(page):
        if language != "python":
            continue
        code = compile("\n" * line + text, str(page), "exec")
        if needs_hub_or_hours(text):
            check_names(ast.parse(text), page, line)
            continue
        # A bundled model stands in for published reward models, a folder for the baselines.
        text = text.replace('"ImageReward-v1.0"', '"tiny"').replace(SERVER, SERVERS[SERVER])
        for name in DOWNLOADED:
            for method in ("load", "load_score"):
                text = text.replace(f'{method}("{name}")', f"{method}({baseline(folder)!r})")
        code = compile("\n" * line + text, str(page), "exec")
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(code, namespace)  # a failure's traceback names the page and the line


def needs_hub_or_hours(text: str) -> bool:
    """Whether a block names a hub repository ("owner/name", no file) or trains."""
    repositories = [
        name
        for name in re.findall(r"""["']([\w.-]+/[\w.-]+)["']""", text)
        if not Path(name).exists() and not re.search(r"\.(json|txt|png|pt|csv|parquet|safetensors)$", name)
    ]
    return bool(repositories) or bool(re.search(r"\btrain\(|preset=", text))


def check_names(tree: ast.AST, page: Path, line: int) -> None:
    """Every `package.name` and `from package import name` of ours is there."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in OURS:
                    modules[alias.asname or alias.name] = importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{page}:{line + node.lineno}: no {alias.name}"
    modules |= {name: importlib.import_module(name) for name in ("refl",)}  # imported by an earlier block
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{page}:{line + node.lineno}: no {node.attr}"


def baseline(folder: Path) -> str:
    """A small BLIP scorer, saved."""
    path = folder / "baseline"
    if not path.exists():
        config = json.loads(Path("config.json").read_text())
        sizes = {k: v for k, v in config.items() if not k.startswith("reward_") and k != "model_type"}
        Path("sizes.json").write_text(json.dumps(sizes))
        state = torch.load("ImageReward.pt", weights_only=True)
        state = {key.removeprefix("blip."): v for key, v in state.items() if key.startswith("blip.")}
        torch.save({"model": state}, "model_large.pth")
        from reward_core.models.convert import convert_checkpoint

        convert_checkpoint(Path("model_large.pth"), path, Path("sizes.json"), Path("vocab.txt"))
    return str(path)


# Commands


class Parsed(Exception):
    """Raised with the parsed command instead of running it."""


def parsed(command: list[str], monkeypatch) -> argparse.Namespace:
    """The arguments as the command's own parser reads them; SystemExit where it refuses them."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        raise Parsed(original(self, args, namespace))

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        try:
            start(command[0], command[1:], patched)
        except Parsed as result:
            return result.args[0]
    raise AssertionError("it read no arguments")


def start(program: str, arguments: list[str], patched: pytest.MonkeyPatch) -> None:
    if program != "python":
        module = {"reward-core": "reward_core.cli", "refl": "refl.cli"}.get(program, "reward_benchmark.cli")
        importlib.import_module(module).main(arguments)
    elif arguments[0] == "-m":
        patched.setattr(sys, "argv", arguments[1:])
        runpy.run_module(arguments[1], run_name="__main__")
    else:
        patched.setattr(sys, "argv", arguments)
        patched.syspath_prepend(str(ROOT / "tools"))
        runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")


@pytest.mark.parametrize("page", cases(is_shell))
def test_commands(page, folder, monkeypatch):
    for language, line, text in blocks(page):
        if not is_shell(language, text):
            continue
        for command in commands(text):
            try:
                check_command(command, monkeypatch)
            except (AssertionError, SystemExit, Exception) as error:
                raise AssertionError(
                    f"{page}, block at line {line}: {shlex.join(command)}: {error}"
                ) from error


def check_command(command: list[str], monkeypatch) -> None:
    program = command[0]
    if program == "hatch":
        check_hatch(command[1:])
    elif "pip" in command:
        check_pip(command)
    elif program == "torchrun" or command[:2] == ["accelerate", "launch"]:
        if "-m" in command:
            parsed(["python", "-m", *command[command.index("-m") + 1 :]], monkeypatch)
    elif program.endswith("python"):
        if command[1].startswith("tools/") or command[1] == "-m":
            parsed(["python", *command[1:]], monkeypatch)
    elif program in PROGRAMS:
        words = [found for word in command[1:] for found in (sorted(glob.glob(word)) or [word])]
        words = [SERVERS.get(word, word) for word in words]
        errors = io.StringIO()
        try:
            with redirect_stderr(errors):
                arguments = parsed([program, *words], monkeypatch)
        except SystemExit as error:
            raise AssertionError(errors.getvalue()) from error
        elsewhere = any(word.startswith("cuda") or word == "ray" for word in words)
        if (program, words[0]) in RUN and not elsewhere:
            bundled = iter(("tiny", "tiny-judge"))
            words = [next(bundled) if word in DOWNLOADED else word for word in words]
            words = [word for word in words if word != "--explain"]  # bundled models have no checklist
            if getattr(arguments, "models", words) is None or getattr(arguments, "model", None) in DOWNLOADED:
                words += ["--model", "tiny"]
            if words[0] == "score" and "--prompts" not in words:
                words.append("--overwrite")  # other commands of the pages write the same file
            with redirect_stdout(io.StringIO()), redirect_stderr(errors):
                code = importlib.import_module("reward_core.cli").main(words)
            assert code == 0, errors.getvalue()
    else:
        assert program in OTHERS, "a program that this test does not know"


def check_hatch(words: list[str]) -> None:
    """`hatch run [environment:]script`."""
    assert words[0] == "run"
    environment, _, script = words[1].rpartition(":")
    environments = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["envs"]
    assert script == "python" or script in environments[environment or "default"]["scripts"]


def check_pip(words: list[str]) -> None:
    """Folders that are packages here, with extras that they have, and never one of our bare names."""
    wanted = [word for word in words[words.index("pip") + 2 :] if not word.startswith("-")]
    if "install" not in words:
        return
    for word in wanted:
        name, _, extras = word.partition("[")
        assert name not in PROGRAMS, "installs from the index"
        if name.startswith("./"):
            project = tomllib.loads((ROOT / name / "pyproject.toml").read_text())["project"]
            for extra in filter(None, extras.rstrip("]").split(",")):
                assert extra in project["optional-dependencies"], f"no extra {extra}"


# Links


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_links_and_named_files_exist(page):
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{page}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page}: {target}"
    for path in re.findall(r"\b(?:tools|tests|docs|packages)/[\w./-]+\.(?:py|md|png|json)\b", text):
        assert (ROOT / path).exists(), f"{page}: {path}"


def test_the_docs_checker_finds_errors(folder, monkeypatch):
    for wrong in (
        "reward-core rank --modle tiny 'a star' a.png",
        "reward-core rnk 'a star' a.png",
        "reward-core rank 'a star' none.png",
        "refl train --presett x",
        "python tools/make_space.py --outt x",
        "python tools/none.py",
        "pip install reward-core",
        "pip install ./packages/reward-core[none]",
        "hatch run none",
        "reward-cor models",
    ):
        (command,) = commands(wrong)
        with pytest.raises((AssertionError, SystemExit, OSError)):
            check_command(command, monkeypatch)
    with pytest.raises(AssertionError, match="no Trainr"):
        check_names(ast.parse("import refl\nrefl.Trainr()"), Path("x"), 0)
