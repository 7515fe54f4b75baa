"""tools/check_prose.py: which words it reports, and where it looks for them."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools/check_prose.py"


@pytest.fixture(scope="module")
def checker():
    import runpy

    return runpy.run_path(str(SCRIPT))


def found(checker, text: str, suffix: str = ".md") -> list[tuple[int, str]]:
    return [(line, words) for line, words, _ in checker["find_words"](text, suffix)]


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("The user is told which file.", "told"),
        ("A warning tells the reason.", "tells"),
        ("The image is scored anew.", "anew"),
        ("Two doors for tensors.", "doors"),
        ("The run goes on with the next step.", "goes on"),
        ("A run is gone on with.", "gone on"),
        ("A model that cannot be had.", "cannot be had"),
        ("The download came to nothing.", "came to nothing"),
        ("The file lies beside it.", "lies"),
        ("The header lacks a length.", "lacks"),
        ("Mend the file first.", "Mend"),
        ("A reward of one's own.", "one's own"),
        ("It takes whatever load takes.", "whatever"),
        ("Recognized by what they hold.", "by what"),
        ("Of fewer images than texts, each is read.", "Of fewer images than texts,"),
        ("It is made of tensors.", "made of"),
        ("Zeros in place of NaN.", "in place of"),
        ("Read so many rows at a time.", "so many rows at a time"),
        ("The file that is there.", "that is there"),
        ("A cache of what is here.", "what is here"),
        ("This is no image.", "is no image"),
        ("Kept features of a model.", "Kept features"),
        ("Images one at a time.", "Images one at a time"),
        ("One look at the image.", "look at the image"),
        ("Prompts are told apart.", "told apart"),
        ("Equal images share a place.", "share a place"),
    ],
)
def test_a_stilted_phrase_is_reported(checker, sentence, words):
    assert found(checker, sentence) == [(1, words)]


@pytest.mark.parametrize(
    "sentence",
    [
        "There is no image in this folder.",
        "This is no longer needed, and it is no larger.",
        "Of course, a GPU is faster.",
        "The file is here. The other one is there.",
        "The option `--tell` and `anew()` are code.",
        "See [the page](docs/anew.md) and <https://example.org/anew>.",
        "The storyteller of Montell outdoors, black and blacklist.",
        "Clean up the believable amendments.",
        "The light stays on a while; it goes on the shelf.",
        "Pass `or none` values as None.",
        "Read from there to the end.",
    ],
)
def test_ordinary_english_is_not_reported(checker, sentence):
    assert found(checker, sentence) == []


def test_a_phrase_is_found_across_a_line_break(checker):
    assert found(checker, "Some models cannot be\nhad today.") == [(1, "cannot be had")]
    assert found(checker, "# models cannot\n    # be had today\n", ".py") == [(1, "cannot be had")]
    assert found(checker, 'x = ("it cannot be "\n     "had")\n', ".py") == [(1, "cannot be had")]


def test_python_is_searched_in_comments_strings_and_test_names_only(checker):
    source = '''"""Docstring told."""
told = lies(anew)
text = f"{told} lies {anew}"
raw = r"it lacks"  # mend
def test_a_file_is_scored_anew(told): ...
'''
    assert found(checker, source, ".py") == [(1, "told"), (3, "lies"), (4, "lacks"), (4, "mend"), (5, "anew")]


def test_toml_is_searched(checker):
    assert found(checker, 'a = 1 # told\nb = "whatever"\n', ".toml") == [(1, "told"), (2, "whatever")]


def test_the_command_prints_the_place_and_exits_with_1(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/page.md").write_text("Fine.\n\nIt is told here.\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden/page.md").write_text("told\n")
    (tmp_path / "script.py").write_text("x = 1  # in place of y\n")
    (tmp_path / "data.txt").write_text("told\n")
    result = subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        "docs/page.md:3: told -> log, warn, report, print, say",
        "script.py:1: in place of -> instead of",
    ]


def test_the_command_exits_with_0_when_all_is_plain(tmp_path, checker, capsys):
    (tmp_path / "page.md").write_text("Load the model.\n")
    assert checker["main"]([str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""


def test_a_missing_path_is_an_error(checker):
    with pytest.raises(SystemExit, match=r"Cannot check 'none\.md': no such file"):
        checker["main"](["none.md"])


def test_the_pages_are_plain(checker, capsys, monkeypatch):
    monkeypatch.chdir(SCRIPT.parents[1])
    pages = [
        *sorted(map(str, Path().glob("*.md"))),
        "docs",
        *sorted(map(str, Path().glob("packages/*/README.md"))),
    ]
    assert checker["main"](pages) == 0, capsys.readouterr().out
