"""One HTML page: verdicts, tables, figures, and the provenance of every value. It needs no network and no server.

Jinja writes the tables and escapes every text; the figures are the SVGs of `scripts/make_figures.py`. The script in
page/ adds sorting, filters and provenance. It sets text only, never markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .. import paper
from ..store.records import Record
from ..study.fill import FilledCell, Results
from . import curves, figures, findings, html_data, plots, tables, verdicts, wording
from .tables import FilledTable, TableEntry

PAGE = Path(__file__).parent / "page"


def page(records: Sequence[Record], all_results: Sequence[Results], problems: Sequence[str] = ()) -> str:
    """The whole page.

    Args:
        records: Every record, for the list of runs and for provenance.
        all_results: One for each scale; scales never share a table or a figure.
        problems: A line for each file that could not be read; the page shows them.
    """
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    places = {r.key: i for i, r in enumerate(records)}
    return environment.get_template("report.html").render(
        scales=[_scale(results, places) for results in all_results],
        problems=problems,
        runs=len(records),
        part_header=findings.PART_HEADER,
        rule=findings.RULE_TEXT,
        style=Markup((PAGE / "report.css").read_text()),
        script=Markup((PAGE / "report.js").read_text()),
        data=Markup(html_data.script_json(html_data.pack(records))),
    )


def _scale(results: Results, places: dict[str, int]) -> dict[str, Any]:
    return {
        "name": results.scale,
        "verdicts": [
            {
                "claim": v.claim,
                "verdict": v.verdict,
                "word": v.word,
                "parts": list(map(findings.part_line, v.parts)),
            }
            for v in verdicts.judge_all(results)
        ],
        "tables": [_table(tables.fill(paper.table(number), results), places) for number in paper.TABLES],
        "figures": _figures(results),
    }


def _figures(results: Results) -> list[dict[str, Any]]:
    with plots.style():
        return [
            {"title": curves.TITLES[number], "svg": Markup(plots.svg_element(figure, f"{results.scale}-{name}"))}
            for number, (name, figure) in zip(paper.FIGURES, figures.figures_of(results, paper.FIGURES), strict=True)
            if figure
        ]


def _table(table: FilledTable, places: dict[str, int]) -> dict[str, Any]:
    return {
        "number": table.layout.number,
        "title": table.layout.title,
        "columns": [(c.label, table.has_paper_values(j)) for j, c in enumerate(table.columns)],
        "rows": [_row(row, places) for row in table.entries],
        "notes": wording.footnotes(table),
    }


def _row(row: tuple[TableEntry, ...], places: dict[str, int]) -> dict[str, Any]:
    filled = tables.cost_cell(row)
    return {
        "label": row[0].row.label,
        "in_paper": row[0].row.in_paper,
        "entries": [_entry(e, places) for e in row],
        "costs": [(text, _sort_key(_mean_cost(filled, name))) for name, text in wording.costs(filled).items()],
    }


def _mean_cost(filled: FilledCell, name: str) -> float | None:
    return tables.mean_cost(filled.selected.values(), name)


def _sort_key(value: float | None) -> float | str:
    """What the page sorts by: the number, or nothing where there is none."""
    return "" if value is None else value


def _entry(entry: TableEntry, places: dict[str, int]) -> dict[str, Any]:
    summary, comparison = entry.summary, entry.comparison
    return {
        "paper": wording.paper_value(entry),
        "paper_sort": _sort_key(entry.paper_value),
        "ours": wording.ours(entry),
        "ours_sort": _sort_key(summary.mean if summary else None),
        "best": entry.best,
        "title": f"{entry.row.label}: {entry.column.label}",
        "runs": " ".join(str(places[r.key]) for r in entry.filled.records),
        "search": wording.rate_search(entry.filled),
        "difference": f"Difference from {comparison.reference}: {wording.difference(comparison, entry.column)}"
        if comparison
        else "",
        "command": entry.filled.command,
    }
