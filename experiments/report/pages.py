"""The generated files of a results folder, as path -> content: tables and findings, computed from the records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..spec import scales as scales_of
from ..store.records import Record
from ..study import recorded, study_file
from ..study.fill import Results
from ..study.layout import Study
from . import findings, latex, markdown, method_page, tables
from .answers import final_text
from .output import Files, between_marks
from .verdicts import judge_all


def by_scale(records: Sequence[Record], scales: Iterable[str] | None = None) -> list[Results]:
    """The records, scale by scale: of `scales`, else of every scale with records, else of the laptop scale."""
    present = {r.cell["scale"] for r in records}
    chosen = list(scales) if scales else [s for s in scales_of.names() if s in present] or ["laptop"]
    return [Results(scale, records) for scale in chosen]


def known_studies(folder: Path) -> list[Study]:
    """The studies of a folder of results, those of `conf/study` that are not of the paper, then the paper's."""
    own = {study.name: study for study in study_file.of_results(folder)}
    others = [study for study in study_file.of_conf() if study.name not in own]
    return [*own.values(), *sorted(others, key=lambda study: study.is_of_paper)]


def studies_with_runs(results: Results, known: Sequence[Study]) -> list[Study]:
    """The studies of which something was run.

    Runs that differ only in their method are a study, although no file describes it.
    """
    shown = [study for study in known if results.has_runs(study)]
    return [*recorded.studies(results, results.unplaced(shown)), *shown]


def sections(
    records: Sequence[Record], folder: Path, scales: Iterable[str] | None = None
) -> list[tuple[Results, list[Study]]]:
    """The results of each scale in a folder, with the studies of which something was run there."""
    known = known_studies(folder)
    return [(results, studies_with_runs(results, known)) for results in by_scale(records, scales)]


def lost_studies(all_results: Sequence[Results], studies: Iterable[Study]) -> dict[str, str]:
    """The name of each study that no run fills, although its methods were run on its task -> why, in words."""
    lost = {}
    for study in studies:
        reasons = [reason for results in all_results if (reason := results.obstacle(study))]
        if reasons and not any(results.has_runs(study) for results in all_results):
            lost[study.name] = reasons[0]
    return lost


def table_files(results: Results, studies: Iterable[Study], folder: Path, *, document: bool = True) -> Files:
    """`folder`/<scale>/<study>.md, .tex and .csv; and tables.tex, a document of all tables, if `document` says so."""
    files: Files = {}
    with_table = [study for study in studies if study.has_table and study.has_scale(results.scale)]
    for study in with_table:
        table = tables.fill(study, results)
        files[folder / table.file(".md")] = markdown.page(table).encode()
        files[folder / table.file(".tex")] = latex.fragment(table).encode()
        files[folder / table.file(".csv")] = tables.frame(table).to_csv(index=False, lineterminator="\n").encode()
    if document and with_table:
        files[folder / results.scale / "tables.tex"] = latex.document(study.name for study in with_table).encode()
    return files


def findings_file(all_results: Sequence[tuple[Results, Sequence[Study]]], path: Path) -> Files:
    """FINDINGS.md: the answers of the studies and the verdicts on the claims, scale by scale.

    Args:
        all_results: The results of each scale with records, and the studies of which something was run there.
        path: Where the file goes.
    """
    scales = findings.scales_with_findings([results.scale for results, _ in all_results])
    by_name = {results.scale: (results, studies) for results, studies in all_results}
    chosen = [by_name.get(scale) or (Results(scale, []), []) for scale in scales]
    return {path: findings.page(chosen).encode()}


def readme_file(records: Sequence[Record], all_results: Sequence[Results], path: Path) -> Files:
    """The file at `path`, with the answer of Table 2 and the verdicts on the claims, at the laptop scale."""
    results = next((r for r in all_results if r.scale == "laptop"), None) or Results("laptop", records)
    table = tables.fill(study_file.get("table2"), results)
    return {path: between_marks(path, {"answer": final_text(table), "claims": findings.summary(judge_all(results))})}


def league_file(all_results: Sequence[Results], path: Path) -> Files:
    """The page about all methods: what each method does and what was measured."""
    return {path: method_page.page(all_results).encode()}
