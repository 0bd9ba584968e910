"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import tabulate

from . import wording
from .answers import listed
from .tables import FilledTable


def text(value: str) -> str:
    """Text from a record, with every character escaped that Markdown or HTML would interpret in a table."""
    for special in "\\`*_|[]":
        value = value.replace(special, "\\" + special)
    return " ".join(value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())


def code(value: str) -> str:
    """Text as code in a table. On GitHub `|` within backticks ends a cell; elsewhere a backslash before it is shown."""
    if "|" not in value:
        return f"`{value}`"
    return f"<code>{text(value).replace(chr(92) + '|', '&#124;')}</code>"


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of texts."""
    return tabulate(list(rows), headers=list(header), tablefmt="pipe", disable_numparse=True) + "\n"


def compact_grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of long texts, without the spaces that align its columns."""
    lines = [header, [":---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page(table: FilledTable) -> str:
    """A table with its notes, how each row was run, the differences, and the commands for what is missing."""
    parts = [f"# {text(table.layout.heading)} (scale: {table.scale})\n"]
    if not table.layout.is_of_paper and (found := listed(table)):
        parts.append("\n".join(f"* **{answer.verdict}**: {text(answer.text)}" for answer in found) + "\n")
    parts.append(with_notes(table))
    if table.details():
        parts += ["## How each row was run\n", details(table)]
    differences = [
        (
            *map(text, (e.row.label, e.column.label, comparison.reference)),
            wording.difference(comparison, e.column, text),
        )
        for row in table.entries
        for e in row
        for comparison in e.comparisons
    ]
    if differences:
        parts += ["## Differences\n", grid(("row", "column", "against", "difference [95 %]"), differences)]
    if missing := table.commands():
        lines = [(text(label), text(columns), code(command)) for label, columns, command in missing]
        plan = f"python scripts/plan.py {table.layout.name} --scale {table.scale} --run"
        parts += [
            "## Not run\n",
            f"This command runs all missing cells: `{plan}`. If these results do not lie in the folder `results`, add "
            "`--results FOLDER`, and `paths.results=FOLDER` to the commands below.\n",
        ]
        parts.append(grid(("row", "column", "command"), lines))
    return "\n".join(parts)


def with_notes(table: FilledTable) -> str:
    """A table with the notes below it."""
    cells = wording.cells(table, "**%s**", text)
    notes = "\n".join(f"* {note}" for note in wording.footnotes(table, text)) + "\n"
    return "\n".join([grid(wording.header(cells), cells.itertuples()), notes])


def details(table: FilledTable) -> str:
    """How each row of a table was run, a line for each cell."""
    header, lines = wording.details(table)
    return grid(header, [tuple(map(text, line)) for line in lines])
