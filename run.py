"""Run one cell of one table, or a sweep of them.

    python run.py method=mora task=uuid                                  now, on this machine
    python run.py -m method=lora,mora method.rank=8,32 seed=0,1,2        a sweep; finished cells are skipped
    python run.py method=mora task=uuid scale=paper hardware=gpu         the published protocol
    python run.py method=mora task=uuid scale=paper dry_run=true         what that would need and cost; nothing is run

Exit codes: 0 done or already done; 1 a run failed, or the disk is full; 2 the configuration is wrong; 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments import redact
from experiments.cli import command, overrides
from experiments.errors import ConfigError, JobFailedError
from experiments.spec import compose, ranks
from experiments.spec.compose import CONF


@redact.streams()
def main() -> int:
    codes: list[int] = []
    here = os.getpid()
    begun = False

    # Exit codes are collected rather than raised, so that a sweep goes on after one bad cell.
    @hydra.main(version_base=None, config_path=str(CONF), config_name="config")
    def job(composed: DictConfig) -> float | None:
        nonlocal begun
        begun = True
        compose.register()  # in a job of a cluster nothing else has
        code, headline = command.answer(composed)
        codes.append(code)
        if code and os.getpid() != here:  # submitit runs it elsewhere, on a copy of the list
            raise JobFailedError(code)
        if code and ranks.from_launcher():
            sys.exit(code)  # ranks that wait for this one must not go on waiting through a sweep
        return headline

    prepare_environment()
    try:
        overrides.check(sys.argv[1:], CONF)
        job()
    except KeyboardInterrupt:
        if ranks.first():
            print("interrupted: the last checkpoint is kept; the same command goes on from there", file=sys.stderr)
        return 130
    except JobFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except (HydraException, OmegaConfBaseException, ConfigError, OSError) as error:
        return command.refuse(error)
    except SystemExit as end:  # Hydra has printed help, or what it cannot show
        if begun:
            raise
        return 2 if end.code else 0
    except Exception as error:
        if begun:
            raise
        # Hydra's own hydra.* settings.
        return command.refuse(ConfigError(f"Hydra cannot compose this: {type(error).__name__}: {error}"))
    ranks.leave()
    return max(codes, default=0)


def prepare_environment() -> None:
    """What must be set before Hydra composes and torch is imported."""
    compose.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach main instead of a page of traceback
    # Threads that wait spin, by default for so long that two runs on two cores slow each other down twentyfold. This
    # many turns cost a run of its own nothing measurable, and two runs a third. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Jobs on a cluster import this project, wherever they were sent from.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CONF.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(stop, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())
