"""One HTML page: verdicts, tables, charts, and the provenance of every cell. It needs no network and no server.

Jinja writes the tables (with everything escaped); the script in page/ adds sorting, filters, charts and provenance from
the packed records, and only ever sets text, never markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .. import paper
from ..store.records import Record
from ..study.fill import Filled, Results
from . import curves, findings, html_data, tables, verdicts, wording
from .tables import Entry, Made

PAGE = Path(__file__).parent / "page"


def html(records: Sequence[Record], all_results: Sequence[Results], problems: Sequence[str] = ()) -> str:
    """The whole page.

    Args:
        records: Every record, for the list of runs and for provenance.
        all_results: One a scale; scales never share a table or a chart.
        problems: Files that could not be read, for the reader to know.
    """
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    place = {r.key: i for i, r in enumerate(records)}
    data = html_data.pack(records) | {"charts": {r.scale: _charts(r) for r in all_results}}
    return environment.get_template("report.html").render(
        scales=[_scale(results, place) for results in all_results],
        problems=problems,
        runs=len(records),
        part_header=findings.PART_HEADER,
        rule=findings.RULE_TEXT,
        style=Markup((PAGE / "report.css").read_text()),
        script=Markup((PAGE / "report.js").read_text()),
        data=Markup(html_data.script_json(data)),
    )


def _scale(results: Results, place: dict[str, int]) -> dict[str, Any]:
    judged = verdicts.judge_all(results)
    return {
        "name": results.scale,
        "verdicts": [
            {"claim": v.claim, "verdict": v.verdict, "parts": list(map(findings.part_line, v.parts))} for v in judged
        ],
        "tables": [_table(tables.make(paper.table(number), results), place) for number in paper.TABLES],
    }


def _table(made: Made, place: dict[str, int]) -> dict[str, Any]:
    return {
        "number": made.table.number,
        "title": made.table.title,
        "columns": [(c.label, made.has_published(j)) for j, c in enumerate(made.columns)],
        "rows": [_row(row, place) for row in made.entries],
        "notes": wording.footnotes(made),
    }


def _row(row: tuple[Entry, ...], place: dict[str, int]) -> dict[str, Any]:
    filled = next((e.filled for e in row if e.values), row[0].filled)
    return {
        "label": row[0].row.label,
        "in_paper": row[0].row.in_paper,
        "entries": [_entry(e, place) for e in row],
        "costs": [
            (text, "" if value is None else value)
            for text, value in (
                (wording.parameters(filled), _cost(filled, "trainable_parameters")),
                (wording.seconds(filled), _cost(filled, "seconds")),
                (wording.memory(filled), _cost(filled, "peak_memory_bytes")),
            )
        ],
    }


def _cost(filled: Filled, name: str) -> float | None:
    return tables.mean_cost(filled.selected.values(), name)


def _entry(entry: Entry, place: dict[str, int]) -> dict[str, Any]:
    found, compared = entry.summary, entry.comparison
    return {
        "paper": wording.published(entry),
        "paper_sort": "" if entry.published is None else entry.published,
        "ours": wording.ours(entry),
        "ours_sort": "" if found is None else found.mean,
        "best": entry.best,
        "title": f"{entry.row.label}: {entry.column.label}",
        "runs": " ".join(str(place[r.key]) for r in entry.filled.records),
        "search": wording.rate_search(entry.filled),
        "against": f"against {compared.reference}: {wording.compared(compared, entry.column)}" if compared else "",
        "command": entry.filled.command,
    }


def _charts(results: Results) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for number in (1, 2, 3, 4):
        series = [
            {
                "label": label,
                "ours": _points(found),
                "theirs": [[s * 100 / paper.PAPER_STEPS, v] for s, v in one.points],
            }
            for one, label, found in curves.of_figure(number, results)
        ]
        if any(s["ours"] or s["theirs"] for s in series):
            y = "character accuracy, %" if number == 1 else "training loss, nats a token"
            made.append(
                {"kind": "lines", "title": curves.TITLES[number], "x": "% of training", "y": y, "series": series}
            )
    bars = [
        {"label": label, "values": [[p.removesuffix("_proj"), c.mean, c.sd or 0.0] for p, c in counts.items()]}
        for _, label, counts in curves.spectra(results)
    ]
    if bars:
        made.append({"kind": "bars", "title": curves.TITLES[5], "y": "singular values above 0.1", "series": bars})
    return made


def _points(found: curves.Band | None) -> list[list[float]]:
    if found is None:
        return []
    return [[round(x, 3), m, s] for x, m, s in zip(found.percent, found.mean, found.sd, strict=True)]
