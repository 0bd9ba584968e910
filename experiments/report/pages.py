"""Which files a results folder should hold: everything that regenerates from its records."""

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
    """The records, scale by scale; all scales that have any (the laptop scale if none has), or those asked for."""
    present = {r.cell["scale"] for r in records}
    chosen = list(scales) if scales else [s for s in scales_of.names() if s in present] or ["laptop"]
    return [Results(scale, records) for scale in chosen]


def table_files(results: Results, numbers: Iterable[int], folder: Path) -> Files:
    """`folder`/<scale>/tableN.md, .tex, .csv, and tables.tex, a document with them all."""
    files: Files = {}
    numbers = list(numbers)
    for number in numbers:
        made = tables.make(paper.table(number), results)
        stem = folder / results.scale / f"table{number}"
        files[stem.with_suffix(".md")] = markdown.page(made).encode()
        files[stem.with_suffix(".tex")] = latex.fragment(made).encode()
        files[stem.with_suffix(".csv")] = tables.frame(made).to_csv(index=False, lineterminator="\n").encode()
    if numbers == list(paper.TABLES):
        files[folder / results.scale / "tables.tex"] = latex.document(f"table{n}" for n in numbers).encode()
    return files


def findings_file(records: Sequence[Record], known: Sequence[Results], path: Path) -> Files:
    """The page of verdicts; `known` are results already made, so that no cell is filled twice."""
    made = {r.scale: r for r in known}
    scales = findings.scales_with_findings([r.cell["scale"] for r in records])
    return {path: findings.page([made.get(s) or Results(s, records) for s in scales]).encode()}


def readme_file(records: Sequence[Record], known: Sequence[Results], path: Path) -> Files:
    """The file with the verdicts at the laptop scale between its marks."""
    results = next((r for r in known if r.scale == "laptop"), None) or Results("laptop", records)
    return {path: between_marks(path, "claims", findings.summary(judge_all(results)))}
