"""The generated files of a results folder, as path -> content: tables and findings, computed from the records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .. import paper
from ..spec import scales as scales_of
from ..store.records import Record
from ..study.fill import Results
from . import findings, latex, markdown, tables
from .output import Files, between_marks
from .verdicts import judge_all


def by_scale(records: Sequence[Record], scales: Iterable[str] | None = None) -> list[Results]:
    """The records, scale by scale: of `scales`, else of every scale with records, else of the laptop scale."""
    present = {r.cell["scale"] for r in records}
    chosen = list(scales) if scales else [s for s in scales_of.names() if s in present] or ["laptop"]
    return [Results(scale, records) for scale in chosen]


def table_files(results: Results, numbers: Iterable[int], folder: Path) -> Files:
    """`folder`/<scale>/tableN.md, .tex and .csv; and tables.tex, a document of all tables, when all are wanted."""
    files: Files = {}
    numbers = list(numbers)
    for number in numbers:
        table = tables.fill(paper.table(number), results)
        stem = folder / results.scale / f"table{number}"
        files[stem.with_suffix(".md")] = markdown.page(table).encode()
        files[stem.with_suffix(".tex")] = latex.fragment(table).encode()
        files[stem.with_suffix(".csv")] = tables.frame(table).to_csv(index=False, lineterminator="\n").encode()
    if numbers == list(paper.TABLES):
        files[folder / results.scale / "tables.tex"] = latex.document(f"table{n}" for n in numbers).encode()
    return files


def findings_file(records: Sequence[Record], all_results: Sequence[Results], path: Path) -> Files:
    """FINDINGS.md: the verdicts on the claims, scale by scale.

    Args:
        records: Every record; their scales decide what the page covers.
        all_results: Results that the caller has already; their cells are not filled a second time.
        path: Where the file goes.
    """
    by_name = {r.scale: r for r in all_results}
    scales = findings.scales_with_findings([r.cell["scale"] for r in records])
    return {path: findings.page([by_name.get(s) or Results(s, records) for s in scales]).encode()}


def readme_file(records: Sequence[Record], all_results: Sequence[Results], path: Path) -> Files:
    """The file at `path`, with the verdicts at the laptop scale between its marks for `claims`."""
    results = next((r for r in all_results if r.scale == "laptop"), None) or Results("laptop", records)
    return {path: between_marks(path, "claims", findings.summary(judge_all(results)))}
