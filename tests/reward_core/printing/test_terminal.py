"""Tables in terminals of several widths."""

import pytest

from reward_core.printing.terminal import PlainTable, print_table

PATH = "pictures/" + "long-name-" * 6 + ".png"
SENTENCE = "a model of " + "many words " * 8


@pytest.fixture
def printed(capsys, monkeypatch):
    """A function that prints a table at a width and returns the lines."""

    def printed(table, width):
        monkeypatch.setenv("COLUMNS", str(width))
        print_table(table)
        return capsys.readouterr().out.splitlines()

    return printed


def ranking(**options):
    table = PlainTable("rank", "image", "score", **options)
    table.add_row("1", PATH, "0.5")
    table.add_row("... 3 more ...", "", "")
    return table


def test_a_table_that_fits_keeps_each_row_on_a_line(printed):
    rows = [line for line in printed(ranking(), 120) if line.startswith("│")]
    assert len(rows) == 2
    assert PATH in rows[0]


def test_a_table_wider_than_the_terminal_becomes_a_list_with_whole_cells(printed):
    lines = printed(ranking(title="a red house", caption="percentile: all"), 80)
    assert lines == [
        "a red house",
        "rank: 1",
        f"  image: {PATH}",
        "  score: 0.5",
        "... 3 more ...",
        "percentile: all",
    ]


def test_a_list_wraps_sentences_between_words(printed):
    table = PlainTable("name")
    table.add_column("description", wrap=True)
    table.add_row("tiny", SENTENCE)
    lines = printed(table, 30)
    assert max(map(len, lines)) <= 30
    assert " ".join(" ".join(lines).split()) == f"name: tiny description: {SENTENCE.strip()}"


def test_only_columns_meant_for_sentences_wrap_inside_a_table(printed):
    table = PlainTable("name")
    table.add_column("description", wrap=True)
    table.add_row("ImageReward-v1.0", SENTENCE)
    lines = printed(table, 60)
    assert max(map(len, lines)) <= 60
    assert sum("ImageReward-v1.0" in line for line in lines) == 1
    assert sum("words" in line for line in lines) > 1


@pytest.mark.parametrize(("width", "as_table"), [(19, True), (18, False)])
def test_wide_characters_take_two_columns(printed, width, as_table):
    table = PlainTable("name", "n")
    table.add_row("画像画像画", "1234")  # 10 + 4 columns, borders and padding 7
    assert any(line.startswith("│") for line in printed(table, width + 2)) is as_table


def test_a_pipe_or_file_gets_the_whole_table(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table(ranking())
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert len(rows) == 2
    assert PATH in rows[0]
