"""Starting run.py, one sweep after another, or saying how to."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .planning import Plan, Run, arguments, in_order

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


def command(made: Plan, runs: Sequence[Run], extra: Sequence[str], python: str = "python") -> list[str]:
    """`extra` are more arguments for run.py, such as the results folder."""
    assert made.setting is not None
    return [python, str(RUN) if python == sys.executable else "run.py", *arguments(made.setting, runs), *extra]


def run_all(
    count: int,
    replan: Callable[[int], Plan],
    extra: Sequence[str],
    say: Callable[[str], None],
    *,
    start: Callable = sweep,
) -> int:
    """Run what `count` cells need, stage after stage; `replan(i)` looks at the records again.

    A run that fails is not tried twice in one call, and does not stop the others.

    Returns:
        0 when all was done, 1 when a run failed or a cell cannot be planned, 130 after an interrupt.
    """
    failed = False
    for i in range(count):
        attempted: set[tuple[float, int]] = set()
        while True:
            made = replan(i)
            if made.unavailable:
                say(f"cell {i + 1} of {count}: {made.cell.method} on {made.cell.task}: {made.unavailable}")
                failed = True
                break
            waiting = [[r for r in runs if (r.rate, r.seed) not in attempted] for runs in in_order(made)]
            runs = next((w for w in waiting if w), None)
            if runs is None:
                failed |= bool(made.needed)
                break
            line = command(made, runs, extra, sys.executable)
            say(f"cell {i + 1} of {count}, {made.stage}: python run.py {shlex.join(line[2:])}")
            code = start(line)
            if code == INTERRUPTED:
                return INTERRUPTED
            attempted |= {(r.rate, r.seed) for r in runs}
    return 1 if failed else 0


def hydra_lines(plans: Sequence[Plan], extra: Sequence[str]) -> list[str]:
    """The multirun commands of what can be run now."""
    return [shlex.join(command(p, runs, extra)) for p in plans for runs in in_order(p)]


def slurm_script(plans: Sequence[Plan], extra: Sequence[str]) -> str:
    """An sbatch array, a task a sweep. Resources are the cluster's business: give them to sbatch."""
    lines = hydra_lines(plans, extra)
    cases = "\n".join(f"  {i}) {line} ;;" for i, line in enumerate(lines))
    return (
        "#!/bin/bash\n#SBATCH --job-name=mora\n"
        f"#SBATCH --array=0-{max(0, len(lines) - 1)}\n#SBATCH --signal=B:INT@120\n#SBATCH --requeue\n"
        "# Seeds at the selected rate can be planned when the search has ended: run plan.py again then.\n"
        'trap \'kill -INT "$child"; wait "$child"\' INT\n'
        f'run() {{\n case "$SLURM_ARRAY_TASK_ID" in\n{cases}\n esac\n}}\nrun &\nchild=$!\nwait "$child"\n'
    )
