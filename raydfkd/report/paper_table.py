"""One HTML page with our figures of a paper's table beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raydfkd.report.html import render, write_page
from raydfkd.report.page_parts import Table


def write_paper_table(
    path: Path, title: str, heading: str, headers: Sequence[str], rows: Sequence[tuple[str, ...]], notes: Sequence[str]
) -> Path:
    """Writes the page, and returns its path.

    Args:
        title: the paper's.
        heading: the table's.
        headers, rows: the table, as text.
        notes: one paragraph each.

    Raises:
        RunDirError: the file cannot be written.
    """
    table = Table(tuple(headers), list(rows))
    return write_page(path, render("paper_table.html.j2", title=title, heading=heading, table=table, notes=list(notes)))
