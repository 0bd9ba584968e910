"""Run one cell of a table, or a sweep over cells.

    python run.py method=mora task=uuid                                  run one cell on this machine
    python run.py -m method=lora,mora method.rank=1,32 seed=0,1,2        run a sweep; skip the finished cells
    python run.py method=mora task=uuid scale=paper hardware=gpu         run the published protocol
    python run.py method=mora task=uuid scale=paper dry_run=true         print what the run would need and cost

Exit codes: 0 all cells are finished; 1 a run failed, or the disk is full; 2 a setting is wrong; 130 interrupted.
"""

from __future__ import annotations

import os
import sys

import hydra
from omegaconf import DictConfig

from experiments import redact
from experiments.cli import command
from experiments.cli.sweep import Sweep
from experiments.errors import JobFailedError
from experiments.spec import ranks
from experiments.spec.compose import CONF


@redact.streams(best_effort=True)
def main() -> int:
    """Compose the configuration of each cell and run the cell. Gives the exit code."""
    sweep = Sweep()
    process = os.getpid()

    # `answer` raises nothing for a cell that fails: the sweep continues with the next cell.
    @hydra.main(version_base=None, config_path=str(CONF), config_name="config")
    def job(composed: DictConfig) -> float | None:
        with redact.streams(best_effort=True):  # submitit runs the cell in another process, on a copy of `sweep`
            code, headline = command.answer(composed, sweep)
        if code and os.getpid() != process:
            raise JobFailedError(code)
        if code and ranks.from_launcher():
            sys.exit(code)  # the other ranks wait for this process and must not wait until the sweep ends
        return headline

    command.prepare_environment()
    return command.run_cells(job, sweep)


if __name__ == "__main__":
    ranks.end(main())
