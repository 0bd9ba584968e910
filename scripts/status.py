"""Show the runs of a results folder: running, failed, interrupted, finished.

    python scripts/status.py                      show the runs of results/ once
    python scripts/status.py --watch              show them again every two seconds, until Ctrl-C
    python scripts/status.py --results R          show another folder, also while other hosts run cells in this folder
    python scripts/status.py --study table2       show also which runs of a study are missing now (or --table 2)

A running run shows its step, loss, learning rate, the time that its training has left, and its process. A failed run
shows the reason and the file with the traceback. Without a terminal, --watch prints once.
Exit codes: 0 shown; 2 a bad argument.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.cli import dashboard, plans, script
from experiments.spec import scales
from experiments.study import planning


def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(__doc__)
    parser.add_config_dir(arguments)
    script.add_code(parser)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds runs/ and progress/")
    parser.add_argument("--watch", action="store_true", help="on a terminal, draw the page again every two seconds")
    script.add_studies(parser, "table", "figure")
    parser.add_argument("--scale", choices=scales.names(), help="of the study (default: the study's own, else laptop)")
    parser.set_defaults(seeds=None, rate_search=planning.WIDENED, settings=[])
    options = parser.parse_args(arguments)
    studies = script.studies(options, "table", "figure")
    plan = plans.StudyPlan(studies, options) if studies else None
    states = plan.states() if plan else []
    for line in plan.notes(states) if plan else []:
        print(f"note: {line}", file=sys.stderr)
    dashboard.show(options.results, watch=options.watch, cells=missing(states))
    return 0


def missing(states: Sequence[tuple[str, planning.Plan]]) -> list[tuple[str, str]]:
    """Name and key of each run that labelled plans still need. A search may need more rates later."""
    return [
        (f"{label}, learning rate {run.rate:g}, seed {run.seed}", cell.setting.key(run.rate, run.seed))
        for label, cell in states
        if cell.setting
        for run in cell.needed
    ]


if __name__ == "__main__":
    sys.exit(script.guarded(main))
