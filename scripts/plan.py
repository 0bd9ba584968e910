"""Show which runs of a table or figure are finished, failed or missing, and what the missing runs would cost; run them.

    python scripts/plan.py --table 2 --scale laptop               show the runs
    python scripts/plan.py --table 2 --scale laptop --run         run the missing runs; after an interruption, repeat
    python scripts/plan.py --table 2 --scale paper --print slurm  print a script for another machine (or --print hydra)

Each cell has two stages. The first stage runs every learning rate of the protocol with the first seed. If the best
rate is the lowest or the highest of these rates, the stage adds one more rate beyond it, and repeats this step. The
second stage runs the other seeds at the best rate. Arguments such as hardware=gpu go to run.py.
Exit codes: 0 done; 1 a run failed; 2 a bad argument; 130 interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tabulate import tabulate

from experiments import paper, tasks
from experiments.cli import script
from experiments.errors import ConfigError
from experiments.spec import methods, scales
from experiments.store.folder import read_records
from experiments.study import planning, start
from experiments.study.cells import Protocols
from experiments.study.fill import Results

HEADER = ("task", "method", "rank", "operator", "stage", "states", "learning rate", "still to run")


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = script.Parser(__doc__)
    parser.add_argument("--table", type=int, action="append", default=[], choices=paper.TABLES)
    parser.add_argument("--figure", type=int, action="append", default=[], choices=paper.FIGURES)
    parser.add_argument("--task", action="append", choices=tasks.NAMES, help="only the cells of this task (repeatable)")
    parser.add_argument("--method", action="append", choices=methods.names(), help="only this method (repeatable)")
    parser.add_argument("--scale", choices=scales.names(), default="laptop")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--seeds", type=script.seeds, default=[0, 1, 2], help="comma-separated (default: 0,1,2)")
    parser.add_argument(
        "--rate-search",
        choices=planning.SEARCHES,
        default=planning.WIDENED,
        help="on: add rates while the best is at the edge; listed: only the protocol's candidates; off: only its `use`",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--run", action="store_true", help="run the missing runs")
    action.add_argument("--print", choices=("hydra", "slurm"), help="print the commands of the runs that can start now")
    parser.add_argument("run_arguments", nargs="*", metavar="name=value", help="more settings for run.py")
    selection = parser.parse_args(arguments)
    script.check_overrides(selection.run_arguments)
    return selection


def cells(selection: argparse.Namespace) -> list[paper.Cell]:
    tables = selection.table or (() if selection.figure else paper.TABLES)
    every_cell = [c for number in tables for c in paper.table_cells(number, selection.scale)]
    every_cell += [c for number in selection.figure for c in paper.figure_cells(number)]
    selected_cells = [c for c in dict.fromkeys(every_cell) if selection.task is None or c.task in selection.task]
    selected_cells = [c for c in selected_cells if selection.method is None or c.method in selection.method]
    if not selected_cells:
        raise ConfigError("no cell of these tables and figures has this --task and this --method")
    return selected_cells


def main(arguments: list[str] | None = None) -> int:
    selection = options(arguments)
    table_cells, protocols = cells(selection), Protocols(selection.scale)
    warned: set[str] = set()

    def results() -> Results:
        records, problems = read_records(selection.results) if selection.results.exists() else ([], [])
        for problem in sorted(set(problems) - warned):
            print(f"warning: {problem}", file=sys.stderr)
        warned.update(problems)
        return Results(selection.scale, records, protocols)

    def plan(cell: paper.Cell, at: Results, abandoned: planning.Attempted = frozenset()) -> planning.Plan:
        return planning.plan(cell, at, selection.seeds, search=selection.rate_search, abandoned=abandoned)

    extra = [f"paths.results={selection.results}", *selection.run_arguments]
    if selection.run:
        return start.run_all(
            len(table_cells),
            lambda i, attempted: plan(table_cells[i], results(), attempted),
            extra,
            lambda line: print(line, flush=True),
        )
    now = results()
    plans = [plan(cell, now) for cell in table_cells]
    if selection.print == "hydra":
        print("\n".join(start.hydra_lines(plans, extra)))
    elif selection.print == "slurm":
        print(start.slurm_script(plans, extra), end="")
    else:
        show(plans, now)
    return 0


def show(plans: list[planning.Plan], results: Results) -> None:
    rows = []
    for plan in plans:
        setting = plan.setting
        operator = " ".join([(setting or plan.cell).operator or "-", *plan.cell.options])
        state = planning.states(plan) if setting else f"cannot be planned: {plan.unavailable[:60]}"
        cost = planning.cost(plan, results.records)
        rows.append(
            [
                plan.cell.task,
                plan.cell.method,
                str((setting or plan.cell).rank or "-"),
                operator,
                plan.stage,
                state,
                plan.selection,
                cost,
            ]
        )
    print(tabulate(rows, HEADER, disable_numparse=True))
    runs_and_seconds = [(len(p.needed) + p.later, planning.run_time(p.cell, results.records).seconds) for p in plans]
    total = sum(count * seconds for count, seconds in runs_and_seconds if seconds is not None)
    unestimated = sum(count for count, seconds in runs_and_seconds if seconds is None)
    total_line = f"\n{len(plans)} cells; {sum(count for count, _ in runs_and_seconds)} runs to do"
    total_line += f", about {planning.duration(total)}" if total else ""
    print(total_line + (f"; {unestimated} of them without an estimate" if unestimated else ""))
    for plan in plans:
        if record := results.cell(plan.cell).nearest:
            rank = f" r = {plan.setting.rank}" if plan.setting and plan.setting.rank else ""
            print(f"no run of {plan.cell.method}{rank} on {plan.cell.task}; the nearest record is {record}")


if __name__ == "__main__":
    # SIGTERM ends the script as Ctrl-C does: the current run saves a checkpoint.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(script.guarded(main))
