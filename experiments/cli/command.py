"""One composed configuration, answered: run, or told what it would need, or refused in one line. Gives an exit code."""

from __future__ import annotations

import sys

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError, StorageError, exit_code
from ..spec import ranks
from ..spec.compose import CONF
from ..spec.parse import parse
from .explain import explain


def answer(composed: DictConfig) -> tuple[int, float | None]:
    """(exit code, the value of the task's first metric where there is one)."""
    from .. import runner
    from . import summary

    try:
        config = parse(composed)
        if config.dry_run:
            from ..estimate import dry_run

            print(dry_run.table(config))
            return 0, None
        record = runner.run(config)
    except (ConfigError, OmegaConfBaseException, StorageError, OSError) as error:
        return refuse(error), None
    if ranks.first():
        summary.show(record, config)
    return (0 if record.status == "finished" else 1), summary.headline(record)


def refuse(error: Exception) -> int:
    """One line: what was wrong, where, which values are allowed. Gives the exit code."""
    if ranks.first():
        print(f"error: {explain(error, sys.argv[1:], CONF)}", file=sys.stderr)
    return exit_code(error)
