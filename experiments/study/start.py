"""Starting run.py, one sweep after another, or printing the commands."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .planning import DIVERGED, DONE, Attempted, Plan, PlannedRun, arguments, sweeps

RUN = Path(__file__).parent.parent.parent / "run.py"
INTERRUPTED = 130


def sweep(command: Sequence[str]) -> int:
    """Run a command with its output on ours, and return its exit code.

    The child is in a session of its own, so that a Ctrl-C at the terminal reaches it once, from here: the first makes
    it keep a checkpoint, a second would stop it on the spot.
    """
    with subprocess.Popen(command, start_new_session=True) as child:
        stopped = False
        while True:
            try:
                code = child.wait()
                return INTERRUPTED if stopped else code
            except KeyboardInterrupt:
                stopped = True
                child.send_signal(signal.SIGINT)


def command(plan: Plan, runs: Sequence[PlannedRun], extra: Sequence[str], python: str = "python") -> list[str]:
    """The command line that does `runs`. `extra` holds further arguments of run.py, such as the results folder."""
    assert plan.setting is not None
    return [python, str(RUN) if python == sys.executable else "run.py", *arguments(plan.setting, runs), *extra]


def run_all(
    labels: Sequence[str],
    replan: Callable[[int, Attempted], Plan],
    extra: Sequence[str],
    say: Callable[[str], None],
    *,
    start: Callable[[Sequence[str]], int] = sweep,
    time_left: Callable[[], str] = lambda: "",
) -> int:
    """Run what cells need, stage after stage.

    A run that fails is not tried twice in one call, and does not stop the others.

    Args:
        labels: What each cell is called.
        replan: Cell number and the runs tried here -> its plan by the records as they are now.
        extra: More arguments for run.py.
        say: Where a line goes for each sweep.
        start: Runs a command and returns its exit code.
        time_left: How long all cells will still take, in words; empty where that is not known.

    Returns:
        0 when all was done, 1 when a run failed or a cell cannot be planned, 130 after an interrupt.
    """
    failed = False
    for i, label in enumerate(labels):
        place = f"cell {i + 1} of {len(labels)} ({label})"
        attempted: set[str] = set()
        plan = replan(i, attempted)
        while waiting := sweeps(plan):
            line = command(plan, waiting[0], extra, sys.executable)
            left = time_left()
            say(f"{place}, {plan.stage}{f', {left} left' if left else ''}: python run.py {shlex.join(line[2:])}")
            if start(line) == INTERRUPTED:
                return INTERRUPTED
            assert plan.setting is not None
            attempted |= {plan.setting.key(r.rate, r.seed) for r in waiting[0]}
            plan = replan(i, attempted)
        broken = [r for r in plan.runs if r.abandoned and r.state not in (DONE, DIVERGED)]
        if plan.unavailable:
            say(f"{place} cannot be planned: {plan.unavailable}")
        if plan.misfit:
            say(f"{place} has no run: {plan.misfit}")
        for run in broken:
            say(f"{place}: the run at learning rate {run.rate:g}, seed {run.seed}, did not finish ({run.state})")
        failed |= bool(plan.unavailable or broken)
    return 1 if failed else 0


def hydra_lines(plans: Sequence[Plan], extra: Sequence[str]) -> list[str]:
    """The multirun commands of what can be run now."""
    return [shlex.join(command(p, runs, extra)) for p in plans for runs in sweeps(p)]


def slurm_script(plans: Sequence[Plan], extra: Sequence[str]) -> str:
    """An sbatch array, a task a sweep, a record a cell. What sbatch's command line says wins over the lines here."""
    lines = hydra_lines(plans, extra)
    cases = "\n".join(f"  {i}) set -- {line} ;;" for i, line in enumerate(lines))
    return f"""#!/bin/bash
#SBATCH --job-name=mora
#SBATCH --array=0-{max(0, len(lines) - 1)}
#SBATCH --ntasks=1
#SBATCH --time=24:00:00
#SBATCH --signal=USR2@180
#SBATCH --requeue
#SBATCH --open-mode=append
# Three minutes before the time limit, or when its place is taken, the run gets USR2: it keeps a checkpoint at the next
# step that it logs, ends with {INTERRUPTED}, is queued again and goes on. Cells that are done are skipped then.
# The other seeds can be planned when the search has ended: run plan.py again then.
case "$SLURM_ARRAY_TASK_ID" in
{cases}
  *) echo "there is nothing to run" >&2; exit 0 ;;
esac
srun --ntasks=1 "$@"
code=$?
[ "$code" -ne {INTERRUPTED} ] || scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
exit "$code"
"""
