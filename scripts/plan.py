"""Show which runs of a study are finished, failed or missing, and what the missing runs would cost; run them.

    python scripts/plan.py table2                          show the runs of a study of conf/study (table2, figure2, ...)
    python scripts/plan.py table2 --scale laptop --run     run the missing runs; after an interruption, repeat
    python scripts/plan.py my/tickets.yaml --run           a study of your own
    python scripts/plan.py table2 task.pairs=100 --run     with other settings: a study of its own, kept in
                                                           <results>/studies
    python scripts/plan.py table2 --scale paper --print slurm   print a script for another machine (or --print hydra)

Each cell has two stages. The first stage runs every learning rate of the protocol with the first seed. If the best rate
is the lowest or the highest rate that was run, the stage adds one more rate beyond the best rate, and repeats this
step. The second stage runs the other seeds at the best rate. Settings that cannot change a result, such as
hardware=gpu, go to run.py.
Exit codes: 0 done; 1 a run failed, or a cell cannot be planned; 2 a bad argument; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import tasks
from experiments.cli import overrides, plans, script
from experiments.errors import ConfigError
from experiments.spec import methods, scales


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = script.Parser(__doc__)
    parser.add_config_dir(arguments)
    script.add_studies(parser, "table", "figure")
    parser.add_argument(
        "--task", action="append", choices=tasks.names(), help="only the cells of this task (repeatable)"
    )
    parser.add_argument("--method", action="append", choices=methods.names(), help="only this method (repeatable)")
    parser.add_argument("--scale", choices=scales.names(), help="the scale (default: the study's own, else laptop)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds runs/")
    plans.add_options(parser)
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="STUDY or name=value",
        help="studies by name or file; settings for run.py",
    )
    selection = parser.parse_intermixed_args(arguments)
    selection.study += [text for text in selection.arguments if "=" not in text]
    selection.settings = [text for text in selection.arguments if "=" in text]
    script.check_overrides(selection.settings)
    overrides.run_code(list(selection.settings))
    return selection


def main(arguments: list[str] | None = None) -> int:
    selection = options(arguments)
    studies = script.studies(selection, "table", "figure")
    if not studies:
        raise ConfigError(f"which study? allowed: {', '.join(script.study_names(selection.results))}, or a .yaml file")
    plan = plans.StudyPlan(studies, selection)
    plan.only(selection.task, selection.method)
    if selection.run:
        return plan.run(lambda line: print(line, flush=True))
    if selection.print:
        print(plan.commands(selection.print), end="")
        return 0
    return plan.show()


if __name__ == "__main__":
    sys.exit(script.guarded(main))
