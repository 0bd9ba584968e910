"""Write the tables of studies, with the paper's values beside ours where there are any, and the findings.

    python scripts/make_tables.py                      every study that has runs, and FINDINGS.md
    python scripts/make_tables.py --table 2 --scale laptop
    python scripts/make_tables.py --study tickets      a study of conf/study, of <results>/studies, or of a .yaml file
    python scripts/make_tables.py --check              exit 1 when a file on disk differs from what the records give
    python scripts/make_tables.py --readme README.md   also write the claims between the marks in that file
    python scripts/make_tables.py --league docs/league.md   also write the page about all methods

Writes <results>/tables/<scale>/<study>.{md,tex,csv}, tables.tex (compiles with pdflatex) and <results>/FINDINGS.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.cli import script
from experiments.report import output, pages
from experiments.study import study_file


def main(arguments: list[str] | None = None) -> int:
    parser = script.parser(__doc__, arguments)
    script.add_studies(parser, "table")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file on disk is out of date")
    parser.add_argument(
        "--readme", type=Path, help="write the claims at the laptop scale between the marks in this file"
    )
    parser.add_argument("--league", type=Path, help="also write this page about all methods and their results")
    options = parser.parse_args(arguments)
    records = script.records(options.results)
    chosen = script.studies(options, "table")
    everything = not chosen and not options.scale
    sections = pages.sections(records, options.results, options.scale)
    files: output.Files = {}
    own = chosen or study_file.of_results(options.results)
    lost = script.warn_of_lost(pages.lost_studies([results for results, _ in sections], own))
    for results, with_runs in sections:
        shown = [study for study in chosen if study.name not in lost] if chosen else with_runs
        files |= pages.table_files(results, shown, options.results / "tables", document=not chosen)
        if unplaced := [run for run in results.unplaced(with_runs) if run.status == "finished"]:
            print(
                f"note: {len(unplaced)} finished runs at scale {results.scale} are in no table or figure "
                f"(other settings, a protocol that has changed since, or a task of yours: --task-module), such as "
                f"{unplaced[0].name} ({unplaced[0].key})",
                file=sys.stderr,
            )
    if everything:
        files |= pages.findings_file(sections, options.results / "FINDINGS.md")
    if options.readme:
        files |= pages.readme_file(records, [results for results, _ in sections], options.readme)
    if options.league:
        files |= pages.league_file([results for results, _ in sections], options.league)
    return script.finish(files, options.check, options.results / "tables" if everything else None)


if __name__ == "__main__":
    sys.exit(script.guarded(main))
