"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import tabulate

from . import wording
from .tables import Made


def text(value: str) -> str:
    """Text from a record, harmless in a Markdown table."""
    for special in "\\`*_|[]":
        value = value.replace(special, "\\" + special)
    return " ".join(value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return tabulate(list(rows), headers=list(header), tablefmt="pipe", disable_numparse=True) + "\n"


def page(made: Made) -> str:
    """A table with its notes, the details of its cells, the comparisons and the commands for what is missing."""
    parts = [f"# Table {made.table.number}: {made.table.title} (scale: {made.scale})\n", _results(made)]
    parts.append("\n".join(f"* {note}" for note in wording.footnotes(made)) + "\n")
    if details := made.details():
        lines = (tuple(map(text, wording.detail(*d))) for d in details)
        parts += ["## How each row was run\n", grid(wording.DETAIL_HEADER, lines)]
    compared = [e for row in made.entries for e in row if e.comparison]
    if compared:
        lines = (
            (e.row.label, e.column.label, e.comparison.reference, wording.compared(e.comparison, e.column))
            for e in compared
            if e.comparison
        )
        parts += ["## Differences\n", grid(("row", "column", "against", "difference [95 %]"), lines)]
    if missing := made.commands():
        lines = ((label, columns, f"`{command}`") for label, columns, command in missing)
        parts += [
            "## Not run\n",
            f"All of it: `python scripts/plan.py --table {made.table.number} --scale {made.scale} --run`\n",
        ]
        parts.append(grid(("row", "column", "command"), lines))
    return "\n".join(parts)


def _results(made: Made) -> str:
    header = [""]
    for j, column in enumerate(made.columns):
        header += [f"{column.label}: paper", "ours"] if made.has_published(j) else [column.label]
    rows = []
    for row in made.entries:
        cells = []
        for j, entry in enumerate(row):
            shown = wording.ours(entry)
            cells += [wording.published(entry)] if made.has_published(j) else []
            cells.append(f"**{shown}**" if entry.best else shown)
        rows.append([row[0].row.label + ("" if row[0].row.in_paper else " (not in the paper)"), *cells])
    return grid(header, rows)
