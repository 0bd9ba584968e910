"""Write one HTML page from the records: answers, tables, claims, figures, and the provenance of every value.

python scripts/make_report.py              write <results>/report.html; open this file in a browser
python scripts/make_report.py --check      exit 1 when the page on disk differs from what the records give
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.cli import script
from experiments.report import html, pages
from experiments.study import study_file


def main(arguments: list[str] | None = None) -> int:
    parser = script.parser(__doc__, arguments)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when the page on disk is out of date"
    )
    options = parser.parse_args(arguments)
    records, problems = script.records_and_problems(options.results)
    sections = pages.sections(records, options.results, options.scale)
    script.warn_of_lost(pages.lost_studies([r for r, _ in sections], study_file.of_results(options.results)))
    page = html.page(records, sections, problems)
    return script.finish({options.results / "report.html": page.encode()}, options.check)


if __name__ == "__main__":
    sys.exit(script.guarded(main))
