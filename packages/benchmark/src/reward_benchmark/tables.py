"""Convert the summary of a run to tables of text, for the terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reward_core.printing.escapes import markdown_text, printable

from .metrics import Interval
from .metrics.retrieval import KS, MIN_IMAGES
from .results import (
    GeneratorsResult,
    GeneratorsSummary,
    PartSummary,
    PreferenceResult,
    PreferenceSummary,
    PublishedValue,
    SuiteSummary,
)


@dataclass(frozen=True)
class TextTable:
    """title, column heads, rows of cells, and notes below."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]


def tables_of(part: PartSummary) -> Iterator[TextTable]:
    """Yield the tables of one part of a summary."""
    if isinstance(part, GeneratorsSummary):
        yield _generators(part)
    else:
        yield _preference(part)
    if part.comparisons:
        yield _comparisons(part)


def report_markdown(summary: SuiteSummary) -> str:
    """Return the summary as one Markdown document."""
    lines = [f"# {markdown_text(summary.suite)}", ""]
    for part in summary.parts:
        lines += [_markdown(table) for table in tables_of(part)]
    lines += ["### Environment", ""]
    lines += [
        f"- {markdown_text(name)}: {markdown_text(value)}" for name, value in summary.environment.items()
    ]
    lines += [
        f"- data of {markdown_text(part.title)}: {markdown_text(part.revision)}" for part in summary.parts
    ]
    return "\n".join(lines) + "\n"


def print_tables(parts: Iterable[PartSummary]) -> None:
    """Print all tables to stdout; a table that is wider than the terminal becomes a list of its rows."""
    from reward_core.printing.terminal import PlainTable, plain_console, print_table

    console = plain_console()
    for part in parts:
        for table in tables_of(part):
            grid = PlainTable(*table.columns, title=table.title)
            for row in table.rows:
                grid.add_row(*row)
            print_table(grid)
            for note in table.notes:
                console.print(f"  {printable(note)}")


def _markdown(table: TextTable) -> str:
    lines = [f"### {markdown_text(table.title)}", ""]
    escaped = [[markdown_text(cell) for cell in row] for row in [table.columns, *table.rows]]
    lines += ["| " + " | ".join(row) + " |" for row in escaped]
    lines.insert(3, "|" + "---|" * len(table.columns))
    return "\n".join([*lines, "", *(f"- {markdown_text(note)}" for note in table.notes), ""])


def _generators(part: GeneratorsSummary) -> TextTable:
    wins = part.reference_wins
    columns = ["generator", f"rank ({part.judge})", *(["wins (people)"] if wins else []), *part.scorers]
    rows = []
    for name, rank in sorted(part.reference.items(), key=lambda item: (item[1] is None, item[1])):
        row = [name, "–" if rank is None else f"{rank:g}"]
        if wins:
            row.append("–" if wins[name] is None else str(wins[name]))
        rows.append(row + [_generator_cell(result, name) for result in part.scorers.values()])
    blank = [""] * (2 if wins else 1)
    results = part.scorers.values()
    rows.append(["Spearman", *blank, *(_spearman_cell(result) for result in results)])
    rows.append(["Kendall", *blank, *(_correlation_cell(result.table.kendall) for result in results)])
    notes = [
        f"Mean score over prompts ± half its 95% interval, (rank), wins over other generators; "
        f"{part.prompts} prompts, {part.images:,} images. {_failures(part)}",
        *(f"{scorer}: over {result.table.prompts} prompts" for scorer, result in part.scorers.items()
          if result.table.prompts < part.prompts),
    ]  # fmt: skip
    return TextTable(part.title, columns, rows, notes)


def _generator_cell(result: GeneratorsResult, name: str) -> str:
    row = result.table.rows[name]
    cell = f"{_with_interval(row.mean, '.4f')} ({row.rank:g}) {row.wins}"
    if paper := result.published.get(name):
        cell += f"; paper {paper.value:.4f}, {paper.difference:+.4f}{_tolerance_mark(paper)}"
    return cell


def _spearman_cell(result: GeneratorsResult) -> str:
    cell = _correlation_cell(result.table.spearman)
    if result.published_spearman is not None:
        cell += f"; paper {result.published_spearman:.2f}"
    return cell


def _correlation_cell(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval.value:.2f} {_range(interval, '.2f')}"


def _preference(part: PreferenceSummary) -> TextTable:
    columns = ["scorer", "pooled %", "per prompt %", *(f"Recall@{k} %" for k in KS)]
    columns += [f"Filter@{k} %" for k in KS]
    tables = [result.table for result in part.scorers.values()]
    rows = [[scorer, *_preference_cells(result)] for scorer, result in part.scorers.items()]
    pairs = sorted({table.pairs for table in tables})
    sizes = sorted({result.n for table in tables for result in (table.recall, table.filter) if result})
    notes = [
        f"[95% interval over prompts]; {part.prompts} prompts, {part.images:,} images, "
        f"{' or '.join(f'{n:,}' for n in pairs)} untied pairs; an equal score is wrong. {_failures(part)}"
    ]
    if sizes:
        count = " or ".join(map(str, sizes))
        note = f"Recall and Filter: over the {count} prompts with {MIN_IMAGES} or more images"
        if part.name == "table3":
            note += "; the paper used a set of 371 prompts, which was not published"
        notes.append(f"{note}.")
    return TextTable(part.title, columns, rows, notes)


def _preference_cells(result: PreferenceResult) -> Iterator[str]:
    table, paper = result.table, result.published
    yield _accuracy_cell(table.pooled_accuracy, paper.pooled_accuracy if paper else None)
    yield _accuracy_cell(table.per_prompt_accuracy, paper.per_prompt_accuracy if paper else None)
    for retrieval, published in (
        (table.recall, paper and paper.recall),
        (table.filter, paper and paper.filter),
    ):
        for k in KS:
            if retrieval is None:
                yield "–"
                continue
            cell = f"{100 * retrieval.at[k].value:.1f} {_range(retrieval.at[k], '.0f', 100)}"
            yield cell + (f"; paper {100 * published[k]:.2f}" if published else "")


def _accuracy_cell(interval: Interval, paper: PublishedValue | None) -> str:
    cell = f"{100 * interval.value:.2f} {_range(interval, '.1f', 100)}"
    if paper is None:
        return cell
    return f"{cell}; paper {100 * paper.value:.2f}, {100 * paper.difference:+.2f}{_tolerance_mark(paper)}"


def _comparisons(part: PartSummary) -> TextTable:
    notes = ["Paired over the same prompts: [95% bootstrap interval]"]
    title = f"{part.title}: differences"
    if isinstance(part, GeneratorsSummary):
        rows = [
            [f"{one.first} – {one.second}", _difference_cell(one.difference, 1)] for one in part.comparisons
        ]
        return TextTable(title, ["scorers", f"Spearman to {part.judge}"], rows, notes)
    rows = [
        [f"{one.first} – {one.second}", _difference_cell(one.difference, 100), f"{one.p_value:.4f}"]
        for one in part.comparisons
    ]
    return TextTable(title, ["scorers", "pooled accuracy, points", "p (sign flips)"], rows, notes)


def _difference_cell(difference: Interval, scale: float) -> str:
    return f"{scale * difference.value:+.2f} {_range(difference, '+.2f', scale)}"


def _with_interval(interval: Interval, form: str) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.value:{form}}"
    return f"{interval.value:{form}} ± {(interval.high - interval.low) / 2:.3f}"


def _range(interval: Interval, form: str, scale: float = 1) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"[{scale * interval.low:{form}}, {scale * interval.high:{form}}]"


def _tolerance_mark(paper: PublishedValue) -> str:
    return " reproduced" if paper.reproduced else ""


def _failures(part: PartSummary) -> str:
    failed = len(part.failed)
    if not failed:
        return "All images were scored."
    return f"{failed:,} of them could not be scored, so the table is over {part.images - failed:,}."
