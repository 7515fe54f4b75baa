"""Reports of a finished run, written from its files."""

from __future__ import annotations

from pathlib import Path

from reward_core.files.atomic_write import write_text

from .html_page import html_page
from .results import SuiteSummary
from .run_files import HTML_FILE, MARKDOWN_FILE, SCORES_FILE, read_groups
from .score_store import read_store
from .tables import report_markdown


def write_reports(folder: Path, summary: SuiteSummary, html: bool) -> list[Path]:
    """Write report.md and optionally report.html; return their paths.

    Args:
        folder: folder of the run.
        summary: summary of that run.
        html: also write report.html.

    Raises:
        InputError: groups.json or scores.jsonl cannot be read, or has another format version.
    """
    page = html_page(summary, read_groups(folder), read_store(folder / SCORES_FILE)) if html else None
    write_text(folder / MARKDOWN_FILE, report_markdown(summary))
    if page is None:
        return [folder / MARKDOWN_FILE]
    write_text(folder / HTML_FILE, page)
    return [folder / MARKDOWN_FILE, folder / HTML_FILE]
