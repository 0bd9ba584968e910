"""Write the paper's tables, with our results beside the paper's, and the findings, from the records.

    python scripts/make_tables.py                      every table at every scale that has records, and FINDINGS.md
    python scripts/make_tables.py --table 2 --scale laptop
    python scripts/make_tables.py --check              exit 1 when a file on disk differs from what the records give
    python scripts/make_tables.py --readme README.md   also write the claims between the marks in that file

Writes <results>/tables/<scale>/tableN.{md,tex,csv}, tables.tex (compiles with pdflatex) and <results>/FINDINGS.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import paper
from experiments.cli import script
from experiments.report import output, pages


def main(arguments: list[str] | None = None) -> int:
    parser = script.parser(__doc__)
    parser.add_argument("--table", type=int, action="append", choices=paper.TABLES, help="only this table (repeatable)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file on disk is out of date")
    parser.add_argument(
        "--readme", type=Path, help="write the claims at the laptop scale between the marks in this file"
    )
    options = parser.parse_args(arguments)
    records = script.records(options)
    all_results = pages.by_scale(records, options.scale)
    files: output.Files = {}
    for results in all_results:
        files |= pages.table_files(results, options.table or paper.TABLES, options.results / "tables")
        if unplaced := results.unplaced():
            print(
                f"note: {len(unplaced)} finished runs at scale {results.scale} are in no table or figure "
                f"(other settings, or the protocol has changed since), such as {unplaced[0].name} ({unplaced[0].key})",
                file=sys.stderr,
            )
    everything = not options.table and not options.scale
    if everything:
        files |= pages.findings_file(records, all_results, options.results / "FINDINGS.md")
    if options.readme:
        files |= pages.readme_file(records, all_results, options.readme)
    return script.finish(files, options.check, options.results / "tables" if everything else None)


if __name__ == "__main__":
    sys.exit(script.guarded(main))
