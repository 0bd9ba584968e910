"""One HTML page: answers, tables, figures, and the provenance of every value. It needs no network and no server.

Jinja writes the tables and escapes every text; the figures are the SVGs of `scripts/make_figures.py`. The script in
page/ adds sorting, filters and provenance. It sets text only, never markup.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..store.records import Record
from ..study.fill import FilledCell, Results
from ..study.layout import Study
from . import figures, findings, html_data, plots, tables, verdicts, wording
from .answers import listed
from .tables import FilledTable, TableEntry

PAGE = Path(__file__).parent / "page"
Section = tuple[Results, Sequence[Study]]


TITLE = "Does high-rank updating beat LoRA? The MoRA paper's results and ours"


def page(records: Sequence[Record], sections: Sequence[Section], problems: Sequence[str] = ()) -> str:
    """The whole page.

    Args:
        records: Every record, for the list of runs and for provenance.
        sections: The results of each scale, with the studies of which something was run there. Scales never share a
            table or a figure.
        problems: A line for each file that could not be read; the page shows them.
    """
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    places = RunPlaces(records)
    own = [study for _, studies in sections for study in studies if not study.is_of_paper]
    return environment.get_template("report.html").render(
        title=own[0].title if own else TITLE,
        is_of_paper=any(study.is_of_paper for _, studies in sections for study in studies) or not own,
        scales=[_scale(results, studies, places) for results, studies in sections],
        problems=problems,
        runs=len(records),
        part_header=findings.PART_HEADER,
        rules=findings.RULES,
        style=Markup((PAGE / "report.css").read_text(encoding="utf-8")),
        script=Markup((PAGE / "report.js").read_text(encoding="utf-8")),
        data=Markup(html_data.script_json(html_data.pack(records) | {"runs": places.cells})),
    )


class RunPlaces:
    """Where the runs of a cell stand among all records. Many entries of a table show one cell, whose list stands once.

    Attributes:
        cells: For each cell that was asked for, the places of its runs among the records.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.cells: list[list[int]] = []
        self._of_key = {record.key: i for i, record in enumerate(records)}
        self._of_cell: dict[tuple[int, ...], int] = {}

    def place(self, filled: FilledCell) -> int:
        """The index in `cells` of the runs of a cell."""
        runs = tuple(self._of_key[record.key] for record in filled.records)
        if runs not in self._of_cell:
            self._of_cell[runs] = len(self.cells)
            self.cells.append(list(runs))
        return self._of_cell[runs]


def _scale(results: Results, studies: Sequence[Study], places: RunPlaces) -> dict[str, Any]:
    of_paper = [study for study in studies if study.is_of_paper]
    own = [study for study in studies if not study.is_of_paper]
    judged = verdicts.judge_all(results) if of_paper or not own else []
    return {
        "name": results.scale,
        "own": [_study(study, results, places) for study in own],
        "verdicts": [
            {
                "claim": v.claim,
                "verdict": v.verdict,
                "word": v.word,
                "found": findings.found_lines(v),
                "parts": list(map(findings.part_line, v.parts)),
            }
            for v in judged
        ],
        "counts": [line for line, *_ in findings.counts(judged)],
        "tables": [_table(tables.fill(study, results), places) for study in of_paper if study.has_table],
        "figures": [drawn for study in of_paper if not study.has_table for drawn in _figures(study, results, 1)],
    }


def _study(study: Study, results: Results, places: RunPlaces) -> dict[str, Any]:
    """A study of the user's own: its answer and a figure first, then its table, then the other figures."""
    table = tables.fill(study, results)
    return _table(table, places) | {"answers": listed(table), "figures": _figures(study, results)}


def _figures(study: Study, results: Results, most: int | None = None) -> list[dict[str, Any]]:
    """The figures of a study, at `most` so many."""
    with plots.style():
        drawn = ((name, figure) for name, figure in figures.figures_of(study, results) if figure)
        return [
            {"title": study.title, "svg": Markup(plots.svg_element(figure, f"{results.scale}-{name}"))}
            for name, figure in itertools.islice(drawn, most)
        ]


def _table(table: FilledTable, places: RunPlaces) -> dict[str, Any]:
    return {
        "id": f"{table.layout.name}-{table.scale}",
        "title": table.layout.heading,
        "is_of_paper": table.layout.is_of_paper,
        "columns": [(c.label, table.has_paper_values(j)) for j, c in enumerate(table.columns)],
        "rows": [_row(row, places) for row in table.entries],
        "notes": wording.footnotes(table),
    }


def _row(row: tuple[TableEntry, ...], places: RunPlaces) -> dict[str, Any]:
    first = tables.cost_cells(row)[0]
    return {
        "label": row[0].row.label,
        "in_paper": row[0].row.in_paper,
        "entries": [_entry(e, places) for e in row],
        "costs": [(text, _sort_key(_mean_cost(first, name))) for name, text in wording.row_costs(row).items()],
    }


def _mean_cost(filled: FilledCell, name: str) -> float | None:
    return tables.mean_cost(filled.selected.values(), name)


def _sort_key(value: float | None) -> float | str:
    """What the page sorts by: the number, or nothing where there is none."""
    return "" if value is None else value


def _entry(entry: TableEntry, places: RunPlaces) -> dict[str, Any]:
    summary = entry.summary
    return {
        "paper": wording.paper_value(entry),
        "paper_sort": _sort_key(entry.paper_value),
        "ours": wording.ours(entry),
        "ours_sort": _sort_key(summary.mean if summary else None),
        "best": entry.best,
        "title": f"{entry.row.label}: {entry.column.label}",
        "runs": places.place(entry.filled),
        "search": entry.misfit or wording.rate_search(entry.filled),
        "difference": ". ".join(
            f"Difference from {c.reference}: {wording.difference(c, entry.column)}" for c in entry.comparisons
        ),
        "command": "" if entry.misfit else entry.filled.command,
    }
