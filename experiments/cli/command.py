"""One composed configuration, answered: run, or told what it would need, or refused in one line. Gives an exit code."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from .. import config as configuration
from .. import storage
from ..distributed import ranks
from ..errors import ConfigError, StorageError
from .explain import explain

CONF = Path(__file__).resolve().parents[2] / "conf"


def answer(composed: DictConfig) -> tuple[int, float | None]:
    """(exit code, the value of the task's first metric where there is one)."""
    from .. import runner
    from . import report

    try:
        config = configuration.parse(composed)
        if config.dry_run:
            from .. import dry_run

            print(dry_run.table(config))
            return 0, None
        record = runner.run(config)
    except (ConfigError, OmegaConfBaseException, StorageError, OSError) as error:
        return refuse(error), None
    if ranks.first():
        report.show(record, config)
    return (0 if record.status == "finished" else 1), report.headline(record)


def refuse(error: Exception) -> int:
    """One line: what was wrong, where, which values are allowed. Gives the exit code."""
    if ranks.first():
        print(f"error: {explain(error, sys.argv[1:], CONF)}", file=sys.stderr)
    return storage.exit_code(error)
