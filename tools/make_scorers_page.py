"""Write the tables of docs/scorers.md from the registry.

python tools/make_scorers_page.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from reward_core.models.registry import BUILT_IN
from reward_core.models.scorer_facts import License, ScorerFacts

PAGE = Path(__file__).parents[1] / "docs" / "scorers.md"
START, END = "<!-- tables of tools/make_scorers_page.py -->", "<!-- end of the tables -->"


def tables() -> str:
    """Return the Markdown tables of all scorers of the package."""
    facts = {name: spec.facts for name, spec in BUILT_IN.items()}
    published = {name: spec.facts for name, spec in BUILT_IN.items() if spec.downloads()}
    return "\n\n".join(
        [
            "## What they compute",
            _table(
                ("name", "score", "range", "better", "comparable across prompts"),
                map(_meaning, facts.items()),
            ),
            "## What they need",
            _table(
                ("name", "parameters", "download", "hardware", "reads the prompt", "differentiable"),
                map(_needs, facts.items()),
            ),
            "## Training data and licenses",
            _table(("name", "training data", "code", "weights"), map(_licenses, facts.items())),
            "## Published accuracies",
            _table(("name", "test set", "accuracy", "published in"), _accuracies(published)),
        ]
    )


def page(text: str) -> str:
    """Return the page with new tables."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{tables()}\n\n{END}{after}"


def _meaning(item: tuple[str, ScorerFacts]) -> Sequence[str]:
    name, facts = item
    comparable = {True: "yes", False: "no", None: "unknown"}[facts.comparable_across_prompts]
    better = "higher" if facts.higher_is_better else "lower"
    score = f"{facts.summary} ({facts.citation})" if facts.citation else facts.summary
    return name, score, facts.score_range, better, comparable


def _needs(item: tuple[str, ScorerFacts]) -> Sequence[str]:
    name, facts = item
    download = f"{facts.gigabytes:.2f} GB" if facts.gigabytes else "part of the package"
    prompt, gradient = ("yes" if value else "no" for value in (facts.reads_prompt, facts.differentiable))
    return name, f"{facts.parameters / 1e6:,.1f} M", download, facts.hardware, prompt, gradient


def _licenses(item: tuple[str, ScorerFacts]) -> Sequence[str]:
    name, facts = item
    return name, facts.training_data, _license(facts.code_license), _license(facts.weights_license)


def _license(license: License) -> str:
    return f"[{license.name}]({license.source})" if license.source.startswith("https:") else license.name


def _accuracies(facts: dict[str, ScorerFacts]) -> Iterable[Sequence[str]]:
    for name, one in facts.items():
        for published in one.accuracies:
            yield name, published.test_set, f"{published.percent:.1f}%", published.citation


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> int:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
