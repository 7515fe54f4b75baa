"""Untrusted texts in a terminal, in Markdown, HTML, charts and spreadsheets."""

import argparse
import csv
import errno
import io
import sys

import pytest

from reward_core.printing.command_line import CommandParser, printable_output, run_command_line
from reward_core.printing.escapes import (
    chart_label,
    html_text,
    markdown_block,
    markdown_code,
    markdown_text,
    printable,
    printable_lines,
    python_string,
    spreadsheet_cell,
)

HIDDEN = [
    *map(chr, [*range(0x20), *range(0x7F, 0xA0)]),
    *map(chr, [0xAD, 0x61C, *range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF]),
    *map(chr, [0xFFF9, 0xE0001, 0xE0041, 0x115F, 0x3164, 0xD800, 0xDCFF]),
]


@pytest.mark.parametrize("show", [printable, html_text, markdown_text, markdown_code, python_string])
def test_hidden_characters_become_visible(show):
    for character in HIDDEN:
        shown = show(f"a{character}b")
        assert character not in shown
        assert shown.isprintable()
        assert f"{ord(character):x}" in shown.lower() or character in "\n\r\t"


def test_visible_text_is_unchanged():
    for text in (
        "été.png",
        "日本語",
        "שלום",
        "مرحبا",
        "a b",
        "x\u00a0y",
        "🐈",
        "C:\\new\\x1b",
        "[red]x[/red]",
    ):
        assert printable(text) == text
    assert printable("a\nb\tc\r") == r"a\nb\tc\r"
    assert printable("\x1b[31m\udcff\u202e") == r"\x1b[31m\udcff\u202e"
    assert printable_lines("a\x1b\nb") == "a\\x1b\nb"


def test_html_and_markdown_show_markup_as_text():
    assert html_text("<b a='\"'>&") == "&lt;b a=&#x27;&quot;&#x27;&gt;&amp;"
    assert markdown_text("a | <script> *b* _c_ snake_case `d` &lt;") == (
        r"a \| &lt;script&gt; \*b\* \_c\_ snake_case \`d\` &amp;lt;"
    )
    assert "](" not in markdown_text("[x](https://example.com)").replace(r"\](", "")
    assert markdown_text("12.5 [1, 2]") == "12.5 [1, 2]"


def test_text_cannot_end_a_code_block_of_markdown():
    assert markdown_code("a`b") == "``a`b``"
    assert markdown_code("`") == "`` ` ``"
    block = markdown_block("x: 'a\n\n  ```\n\n  # heading'\n", "yaml")
    assert block.startswith("````yaml\n")
    assert block.endswith("\n````\n")
    assert python_string('a"b\\\n') == r'"a\"b\\\n"'


def test_chart_labels_are_not_formulas(tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axis = figure.subplots()
    for name in ("$\\frac{", "_hidden", "a\x1bb", "50% & $5$", "<b>"):
        axis.plot([1, 2], label=chart_label(name))
    axis.legend()
    figure.savefig(tmp_path / "chart.svg")
    assert len(axis.get_legend().get_texts()) == 5


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-2", "@SUM(A1)", "\t=1", "\r=1", "\n", "  =1", '"=1', "“=1", "\u200b=1", "\x00=1", "＝1",
     "＋1", "－1", "＠A1", "\ufeff=1", "-0.5", " \t x"],
)  # fmt: skip
def test_formulas_are_escaped_for_spreadsheets(text):
    shown = spreadsheet_cell(text)
    assert shown == "'" + text or (shown[0] == "'" and shown.replace("'", "") == text)


def test_formulas_after_a_separator_are_escaped():
    assert spreadsheet_cell("a;=cmd|'/c calc'!A1") == "a;'=cmd|'/c calc'!A1"
    assert spreadsheet_cell("a\t@x\n +y") == "a\t'@x\n' +y"
    for text in ("a red - blue", "a=b", "1-2", "", "red; blue", "it's", "a, -b"):
        assert spreadsheet_cell(text) == text
        out = io.StringIO()
        csv.writer(out).writerow([spreadsheet_cell(text), "x"])
        assert next(csv.reader(io.StringIO(out.getvalue()))) == [text, "x"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "there is not enough memory. Use a smaller batch size, fewer workers"),
        (MemoryError("Unable to allocate 9 GiB"), "there is not enough memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "there is not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "there is not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "there is not enough memory"),
        (RuntimeError("can't start new thread"), "there is not enough memory"),
        (RuntimeError("could not create a primitive"), "there is not enough memory"),  # oneDNN
        (RecursionError("maximum recursion depth exceeded"), "an input is nested too deeply"),
        (OSError("a\n\x1b[31mb"), r"a\n\x1b[31mb"),
    ],
)
def test_errors_end_a_command_in_one_line(capsys, error, words):
    def run():
        raise error

    assert run_command_line("reward-core", run) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("reward-core: ")
    assert words in lines[0]


def test_errors_of_a_program_are_not_hidden():
    def run():
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        run_command_line("reward-core", run)


def test_usage_errors_show_arguments_on_one_line(capsys):
    parser = CommandParser(prog="reward-core")
    parser.add_subparsers().add_parser("rank").add_argument("--size", type=float)
    for arguments in (["rank", "\x1b[31m\u202e"], ["rank", "--size", "1\n\x1b2"]):
        with pytest.raises(SystemExit):
            parser.parse_args(arguments)
        text = capsys.readouterr().err
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert isinstance(parser, argparse.ArgumentParser)


def test_output_of_libraries_is_escaped(capsys):
    with printable_output():
        print("a\x1b[31m\u202eb\nc", file=sys.stderr)
        print("d\x07")
    assert capsys.readouterr() == ("d\\x07\n", "a\\x1b[31m\\u202eb\nc\n")
