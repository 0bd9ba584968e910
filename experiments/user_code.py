"""Python files of a user, which define a task or register an adapter with PEFT.

Such a file may do anything. So only the command line may name it, never a record or a configuration file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import ConfigError, one_line

_loaded: dict[str, ModuleType] = {}  # by the hash of the file
_defined: dict[str, set[str]] = {}  # path, as the command line names it -> what `define` was told


def define(path: str, names: Iterable[str]) -> None:
    """Remember which tasks, by their names, and which adapters, by their PEFT types, a file defines."""
    _defined.setdefault(path, set()).update(names)


def is_of_others(path: str | None, name: Any) -> bool:
    """Whether the command line has named a file, and the file does not define the task or the adapter of this name.

    A name that is no text is the name of nothing.
    """
    return path in _defined and not any(known == name for known in _defined[path])


def load(path: str, setting: str) -> tuple[ModuleType, str]:
    """Run a Python file, once in a process. Gives the module, and the SHA-256 of the file.

    Args:
        path: The file.
        setting: The name of the setting that holds the path, for errors.

    Raises:
        ConfigError: The file cannot be read or run.
    """
    where = f"{setting}={path}"
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}") from None
    sha256 = hashlib.sha256(source).hexdigest()
    if sha256 in _loaded:
        return _loaded[sha256], sha256
    specification = importlib.util.spec_from_file_location(f"user_code_{sha256[:16]}", path)
    if specification is None or not isinstance(specification.loader, SourceFileLoader):
        raise ConfigError(f"{where} must be a Python file, with the ending .py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module  # where pickle looks for the classes of the file
    try:
        # The bytes that were hashed are run. The loader would read the file again, or take Python's own copy of it.
        exec(specification.loader.source_to_code(source, path), module.__dict__)  # noqa: S102
    except Exception as error:  # whatever the user's code raises
        raise ConfigError(f"{where} cannot be run: {type(error).__name__}: {one_line(str(error))}") from error
    _loaded[sha256] = module
    return module, sha256
