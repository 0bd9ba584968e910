"""What run.py does around Hydra: prepare the process, run each composed cell, turn errors into one line and a code."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ..errors import JobFailedError, exit_code, one_line
from ..spec import compose, ranks, signals
from ..spec.explanation import explain
from ..spec.run_config import RunConfig
from . import overrides
from .sweep import WRONG, Sweep, configuration


class ForgetJobs(Callback):
    """Frees memory during a sweep: Hydra keeps two copies of each job's configuration, 0.2 MB, until the sweep ends."""

    def on_job_end(self, config: Any, job_return: JobReturn, **kwargs: Any) -> None:
        """Drop the copies. Sweepers read only the returned value and the overrides."""
        job_return.cfg = job_return.hydra_cfg = None


def prepare_environment() -> None:
    """Set what Hydra and torch read when they start, and let each signal that stops a run save a checkpoint first."""
    compose.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing a traceback
    # OpenMP threads that wait for work spin in a loop. With the default number of turns, two runs on two cores become
    # twenty times slower. With 10,000 turns they become slower by a third, and a single run keeps its speed.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # A job on a cluster imports this project from any folder.
    path = os.environ.get("PYTHONPATH")
    others = path.split(os.pathsep) if path else []
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(compose.CONF.parent), *others]))
    for stop in signals.handled():
        signal.signal(stop, signal.default_int_handler)


def run_cells(job: Callable[[], None], sweep: Sweep) -> int:
    """Let Hydra call `job` for each cell of the command line. Gives the exit code.

    Args:
        job: Hydra's main function, which calls `answer` with the same `sweep`.
        sweep: The cells of this command line.
    """
    try:
        sys.argv[1:] = overrides.flags_first(sys.argv[1:])
        overrides.check(sys.argv[1:])
        with sweep.checked_first():
            job()
    except KeyboardInterrupt:
        if ranks.first():
            print("interrupted: the same command goes on from the last checkpoint, if there is one", file=sys.stderr)
            if sweep.submits:
                print(
                    "jobs that were submitted stay in the queue (squeue, scancel); the same command submits them again",
                    file=sys.stderr,
                )
        return 130
    except JobFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except SystemExit as end:  # after --help, after a value that a flag does not take, or from `job`
        return max(sweep.codes, default=2 if end.code else 0)
    except Exception as error:  # Hydra could not compose a cell: errors of the cells themselves end in `answer`
        return refuse(error)
    finally:
        sweep.show()
    ranks.leave()
    return max(sweep.codes, default=0)


def answer(composed: DictConfig, sweep: Sweep) -> tuple[int, float | None]:
    """Run one composed cell, or print what the cell would cost.

    Args:
        composed: What Hydra has composed for the cell.
        sweep: The sweep to which the cell belongs; it notes the exit code.

    Returns:
        The exit code, and the value of the task's headline metric for Hydra's sweepers.
    """
    with sweep.running():
        code, headline = _run(composed)
        sweep.codes.append(code)
    return code, headline


def _run(composed: DictConfig) -> tuple[int, float | None]:
    from .. import runner
    from . import summary

    config = None
    try:
        config = configuration(composed)
        if config.dry_run:
            from ..estimate import dry_run

            print(dry_run.table(config))
            return 0, None
        record = runner.run(config)
    except WRONG as error:
        return refuse(error), None
    except Exception as error:  # a fault of this project; the next cell of a sweep may run without it
        return report(error, composed, config), None
    if ranks.first():
        summary.show(record, config)
    headline = summary.headline(record)
    return (0 if record.status == "finished" else 1), headline[1] if headline else None


def report(error: Exception, composed: DictConfig, config: RunConfig | None) -> int:
    """Print one line about an error that nobody foresaw, write its traceback to a file, and give the exit code.

    Args:
        error: The error.
        composed: The composed configuration.
        config: The same with types; None if the error occurred before.
    """
    from ..identity import identity_of, key_of
    from ..store import failures, provenance
    from ..store.records import Store

    results, name = "results", f"{provenance.now().replace(':', '')}-{os.getpid()}"
    with contextlib.suppress(Exception):  # the error may lie in what is called here
        results = str(composed.paths.results)
        if config:
            name = key_of(identity_of(config))
    path = Store(results).failure(name)
    if failures.write_traceback(path, f"run.py {shlex.join(sys.argv[1:])}", error):
        print(f"error: {one_line(f'{type(error).__name__}: {error}')}; traceback: {path}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    return 1


def refuse(error: Exception) -> int:
    """Print one line that says what is wrong, and give the exit code."""
    if ranks.first():
        print(f"error: {explain(error, sys.argv[1:])}", file=sys.stderr)
    return exit_code(error)
