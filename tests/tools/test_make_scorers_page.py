"""docs/scorers.md has the facts of the registry."""

from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"


def test_the_page_of_the_scorers_has_the_facts_of_the_registry(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    from make_scorers_page import PAGE, page

    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run `python tools/make_scorers_page.py`"
