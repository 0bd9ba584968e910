"""Run one cell of one table, or a sweep of them.

    python run.py method=mora task=uuid                                  now, on this machine
    python run.py -m method=lora,mora method.rank=8,32 seed=0,1,2        a sweep; finished cells are skipped
    python run.py method=mora task=uuid scale=paper hardware=gpu         the published protocol
    python run.py method=mora task=uuid scale=paper dry_run=true         what that would need and cost; nothing is run

Exit codes: 0 done or already done; 1 a run failed; 2 the configuration is wrong; 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments import config as configuration
from experiments import resolvers
from experiments.errors import ConfigError, JobFailedError
from experiments.explain import explain

CONF = Path(__file__).parent / "conf"


def refuse(error: Exception) -> None:
    """One line: what was wrong, where, which values are allowed."""
    print(f"error: {explain(error, sys.argv[1:], CONF)}", file=sys.stderr)


def main() -> int:
    codes: list[int] = []
    here = os.getpid()

    def done(code: int) -> None:
        codes.append(code)
        if code and os.getpid() != here:  # submitit runs it elsewhere, on a copy of the list
            raise JobFailedError(code)

    # Errors are collected rather than raised, so that a sweep goes on after one bad cell.
    @hydra.main(version_base=None, config_path=str(CONF), config_name="config")
    def job(composed: DictConfig) -> float | None:
        from experiments import dry_run, report, runner

        resolvers.register()  # in a job of a cluster nothing else has
        try:
            config = configuration.parse(composed)
            if config.dry_run:
                print(dry_run.table(config))
                done(0)
                return None
            record = runner.run(config)
        except (ConfigError, OmegaConfBaseException) as error:
            refuse(error)
            done(2)
            return None
        report.show(record, config)
        done(0 if record.status == "finished" else 1)
        return report.headline(record)

    resolvers.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach the lines below instead of a page of traceback
    # Threads that wait spin, by default for so long that two runs on two cores slow each other down twentyfold. This
    # many turns cost a run of its own nothing measurable, and two runs a third. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Jobs on a cluster import this project, wherever they were sent from.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CONF.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(stop, signal.default_int_handler)
    try:
        job()
    except KeyboardInterrupt:
        print("interrupted: the last checkpoint is kept; the same command goes on from there", file=sys.stderr)
        return 130
    except JobFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except (HydraException, OmegaConfBaseException, ConfigError, OSError) as error:
        refuse(error)
        return 2
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main())
