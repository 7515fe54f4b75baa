"""A run's summary as tables of text cells, for the terminal, Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reward_core.printing.escapes import markdown_text, printable


@dataclass(frozen=True)
class TextTable:
    """title, column heads, rows of cells, and notes below."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]


def tables_of(part: dict[str, Any]) -> Iterator[TextTable]:
    """The tables of one part of a summary."""
    yield _generators(part) if part["kind"] == "generators" else _preference(part)
    if part["comparisons"]:
        yield _comparisons(part)


def markdown(table: TextTable) -> str:
    """The table as Markdown."""
    lines = [f"### {markdown_text(table.title)}", ""]
    escaped = [[markdown_text(cell) for cell in row] for row in [table.columns, *table.rows]]
    lines += ["| " + " | ".join(row) + " |" for row in escaped]
    lines.insert(3, "|" + "---|" * len(table.columns))
    return "\n".join([*lines, "", *(f"- {markdown_text(note)}" for note in table.notes), ""])


def print_tables(parts: list[dict[str, Any]]) -> None:
    """All tables on stdout."""
    from reward_core.printing.terminal import PlainTable, plain_console

    console = plain_console()
    for part in parts:
        for table in tables_of(part):
            shown = PlainTable(*table.columns, title=table.title)
            for row in table.rows:
                shown.add_row(*row)
            console.print(shown)
            for note in table.notes:
                console.print(f"  {printable(note)}")


def _generators(part: dict[str, Any]) -> TextTable:
    scorers = part["scorers"]
    order = sorted(
        part["reference"], key=lambda name: (part["reference"][name] is None, part["reference"][name])
    )
    wins = part["reference_wins"]
    columns = ["generator", f"rank ({part['judge']})", *(["wins (people)"] if wins else []), *scorers]
    rows = []
    for name in order:
        rank = part["reference"][name]
        row = [name, "–" if rank is None else f"{rank:g}"]
        if wins:
            row.append("–" if wins[name] is None else str(wins[name]))
        rows.append(row + [_generator_cell(table["generators"][name]) for table in scorers.values()])
    blank = [""] * (2 if wins else 1)
    for key, label in (("spearman", "Spearman"), ("kendall", "Kendall")):
        rows.append([label, *blank, *(_correlation_cell(table, key) for table in scorers.values())])
    notes = [
        f"Mean score over prompts ± half its 95% interval, (rank), wins over other generators; "
        f"{part['prompts']} prompts, {part['pictures']:,} images. {_failures(part)}",
        *(f"{scorer}: over {table['prompts']} prompts" for scorer, table in scorers.items()
          if table["prompts"] < part["prompts"]),
    ]  # fmt: skip
    return TextTable(part["title"], columns, rows, notes)


def _generator_cell(row: dict[str, Any]) -> str:
    cell = f"{_with_interval(row['mean'], '.4f')} ({row['rank']:g}) {row['wins']}"
    if published := row.get("published"):
        cell += (
            f"; paper {published['value']:.4f}, {published['difference']:+.4f}{_tolerance_mark(published)}"
        )
    return cell


def _correlation_cell(table: dict[str, Any], key: str) -> str:
    found = table[key]
    cell = "–" if found is None else f"{found['value']:.2f} {_range(found, '.2f')}"
    if key == "spearman" and "published_spearman" in table:
        cell += f"; paper {table['published_spearman']:.2f}"
    return cell


def _preference(part: dict[str, Any]) -> TextTable:
    columns = ["scorer", "pooled %", "per prompt %", *(f"Recall@{k} %" for k in (1, 2, 4))]
    columns += [f"Filter@{k} %" for k in (1, 2, 4)]
    rows, sizes = [], set()
    for scorer, table in part["scorers"].items():
        published = table.get("published", {})
        row = [scorer]
        for key in ("pooled_accuracy", "per_prompt_accuracy"):
            interval = table["intervals"][key]
            cell = f"{100 * interval['value']:.2f} {_range(interval, '.1f', 100)}"
            if paper := published.get(key):
                cell += f"; paper {100 * paper['value']:.2f}, {100 * paper['difference']:+.2f}"
                cell += _tolerance_mark(paper)
            row.append(cell)
        for key in ("recall", "filter"):
            for k in ("1", "2", "4"):
                if table[key] is None:
                    row.append("–")
                    continue
                sizes.add(table[key]["n"])
                cell = f"{100 * table[key][k]:.1f} {_range(table['intervals'][key][k], '.0f', 100)}"
                row.append(cell + (f"; paper {100 * published[key][k]:.2f}" if key in published else ""))
        rows.append(row)
    pairs = sorted({table["pairs"] for table in part["scorers"].values()})
    notes = [
        f"[95% interval over prompts]; {part['prompts']} prompts, {part['pictures']:,} images, "
        f"{' or '.join(f'{n:,}' for n in pairs)} untied pairs; an equal score is wrong. {_failures(part)}"
    ]
    if sizes:
        notes.append(
            f"Recall and Filter are rebuilt: over the {' or '.join(map(str, sorted(sizes)))} prompts here "
            "with 8 or more images, since the paper's set of 371 prompts is lost."
        )
    return TextTable(part["title"], columns, rows, notes)


def _comparisons(part: dict[str, Any]) -> TextTable:
    preference = part["kind"] == "preference"
    scale, form = (100, ".2f") if preference else (1, ".2f")
    columns = ["scorers", "pooled accuracy, points" if preference else "Spearman to " + part["judge"]]
    rows = []
    for one in part["comparisons"]:
        difference = one["difference"]
        row = [f"{one['first']} – {one['second']}"]
        row.append(f"{scale * difference['value']:+{form}} {_range(difference, '+' + form, scale)}")
        rows.append(row + ([f"{one['p_value']:.4f}"] if preference else []))
    notes = ["Paired over the same prompts: [95% bootstrap interval]"]
    if preference:
        columns.append("p (sign flips)")
    return TextTable(f"{part['title']}: differences", columns, rows, notes)


def _with_interval(interval: dict[str, float | None], form: str) -> str:
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        return f"{interval['value']:{form}}"
    return f"{interval['value']:{form}} ± {(high - low) / 2:.3f}"


def _range(interval: dict[str, float | None], form: str, scale: float = 1) -> str:
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        return ""
    return f"[{scale * low:{form}}, {scale * high:{form}}]"


def _tolerance_mark(paper: dict[str, Any]) -> str:
    return " reproduced" if paper["reproduced"] else ""


def _failures(part: dict[str, Any]) -> str:
    failed = len(part["failed"])
    if not failed:
        return "All images were scored."
    return f"{failed:,} of them could not be scored, so the table is over {part['pictures'] - failed:,}."
