"""The tasks, one file each. `base.Task` says what a task declares; everything else about a task is asked of it."""

from __future__ import annotations

from importlib import import_module

from ..errors import ConfigError
from ..spec import compose
from ..spec.run_config import RunConfig
from .base import Metric, Task, TaskData

NAMES = tuple(compose.choices("task"))


def get(name: str) -> Task:
    """The task of this name.

    Raises:
        ConfigError: There is no task of this name.
    """
    if name not in NAMES:
        raise ConfigError(f"task.name must be one of {', '.join(NAMES)}, got {name!r}")
    return import_module(f"{__name__}.{name}").TASK


def of(config: RunConfig) -> Task:
    """The task of a run, whose configuration has every setting that the task needs.

    Raises:
        ConfigError: There is no such task, or the configuration lacks a setting.
    """
    task = get(config.task.name)
    for setting in task.needs:
        if getattr(config.task, setting) is None:
            raise ConfigError(f"task.{setting} is missing; task={task.name} cannot do without it")
    return task


def metric(task: str, name: str) -> Metric:
    """What the task of a name declares about one of its metrics."""
    return get(task).metric(name)


__all__ = ["NAMES", "Metric", "Task", "TaskData", "get", "metric", "of"]
