"""Tasks: what to train on, where the loss counts, what to measure. One file a task; see `base.Task`."""

from __future__ import annotations

from importlib import import_module

from ..errors import ConfigError
from .base import Prepared, Task

NAMES = ("uuid", "instruct", "math", "biomed", "finance", "pretrain")


def get(name: str) -> Task:
    """The task of this name.

    Raises:
        ConfigError: There is none.
    """
    if name not in NAMES:
        raise ConfigError(f"task.name must be one of {', '.join(NAMES)}, got {name!r}")
    return import_module(f"{__name__}.{name}").TASK


__all__ = ["NAMES", "Prepared", "Task", "get"]
