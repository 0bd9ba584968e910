"""The tasks, one file each. `base.Task` says what a task declares; everything else about a task is asked of it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import NamedTuple

from .. import user_code
from ..errors import ConfigError
from ..spec import compose
from ..spec.run_config import RunConfig
from .base import Criterion, Metric, Task, TaskData, examples_taken, measured, numbers


class Module(NamedTuple):
    """A task in a Python file of the user, and the hash of the file."""

    task: Task
    sha256: str


DECLARED = ("name", "version", "needs", "metrics", "headline")  # what a task cannot do without
_modules: dict[str, Module] = {}  # by the name of the task


def names() -> tuple[str, ...]:
    """The tasks that have a file `task/<name>.yaml`, in `conf/` or in a user's own folder."""
    return tuple(compose.choices("task"))


def add(path: str) -> Task:
    """Run a user's Python file, which defines TASK, and let `get` find that task. The command line must name the file.

    Raises:
        ConfigError: The file cannot be run, or defines no task, or a task with the name of one of this project.
    """
    where = f"task.module={path}"
    module, sha256 = user_code.load(path, "task.module")
    task = getattr(module, "TASK", None)
    if not isinstance(task, Task):
        raise ConfigError(f"{where} must define TASK, an instance of a class that derives from experiments.tasks.Task")
    if missing := [name for name in DECLARED if not hasattr(task, name)]:
        raise ConfigError(f"{where}: TASK does not declare {', '.join(missing)}")
    if not task.name.isidentifier() or importlib.util.find_spec(f"{__name__}.{task.name}"):
        raise ConfigError(f"{where}: TASK.name must be a name that no task of this project has, got {task.name!r}")
    for kind in ("headline", "selection", "curve_selection"):
        if (name := getattr(task, kind)) is not None and not _declares(task, name):
            known = ", ".join(_names(task.metrics))
            raise ConfigError(f"{where}: TASK.{kind} must be one of its metrics ({known}), got {name!r}")
    if twice := [metric.name for i, metric in enumerate(task.metrics) if metric.name in _names(task.metrics[:i])]:
        raise ConfigError(f"{where}: TASK declares two metrics of the name {twice[0]}")
    _modules[task.name] = Module(task, sha256)
    user_code.define(path, [task.name])
    return task


def _names(metrics: Iterable[Metric]) -> list[str]:
    return [metric.name for metric in metrics]


def _declares(task: Task, metric: str) -> bool:
    try:
        task.metric(metric)
    except KeyError:
        return False
    return True


def module_hash(name: str) -> str | None:
    """The hash of the user's file that defines the task of this name; None for a task of this project."""
    return _modules[name].sha256[:16] if name in _modules else None


def get(name: str) -> Task:
    """The task of this name.

    Raises:
        ConfigError: There is no task of this name, or its Python file was not said on the command line.
    """
    if name in _modules:
        return _modules[name].task
    if task := getattr(sys.modules.get(f"{__name__}.{name}"), "TASK", None):  # the tables ask thousands of times
        return task
    if name not in names():
        raise ConfigError(f"task.name must be one of {', '.join(names())}, got {name!r}")
    if importlib.util.find_spec(f"{__name__}.{name}") is None:
        raise ConfigError(
            f"task={name} has no Python file in this project: say task.module=FILE on the command line (for scripts: "
            "--task-module FILE)"
        )
    return import_module(f"{__name__}.{name}").TASK


def is_known(name: str) -> bool:
    """Whether this process has the Python file of a task."""
    try:
        get(name)
    except ConfigError:
        return False
    return True


def of(config: RunConfig) -> Task:
    """The task of a run, whose configuration has every setting that the task needs.

    Raises:
        ConfigError: There is no such task, or the configuration lacks settings.
    """
    t = config.task
    if t.module and t.name not in _modules:
        raise ConfigError(
            f"task={t.name} is defined in {t.module}, and only the command line may name code: "
            f"say task.module={t.module} (for scripts: --task-module {t.module})"
        )
    task = get(t.name)
    own = t.settings or {}  # the settings of a task of the user
    if missing := [f"task.{name}" for name in task.needs if getattr(t, name, own.get(name)) is None]:
        verb, they = ("is", "it") if len(missing) == 1 else ("are", "them")
        raise ConfigError(f"{', '.join(missing)} {verb} missing; task={task.name} cannot do without {they}")
    return task


def metric(task: str, name: str) -> Metric:
    """What the task of a name declares about one of its metrics."""
    return get(task).metric(name)


__all__ = [
    "Criterion",
    "Metric",
    "Task",
    "TaskData",
    "add",
    "examples_taken",
    "get",
    "is_known",
    "measured",
    "metric",
    "module_hash",
    "names",
    "numbers",
    "of",
]
