"""What a command line of run.py may not say, found before Hydra composes it.

Hydra takes some of it and would start another run than the one that was meant: two files merged into one section, a
setting that the chosen method does not have and nobody reads. Other parts of it end in a traceback inside Hydra.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString
from hydra.errors import HydraException

from .. import redact
from ..errors import ConfigError
from .explain import GROUPS, setting_is_known, unknown_setting

BRACKETS = 100  # in one argument; Hydra's parser recurses


def check(arguments: list[str], conf: Path) -> None:
    """Refuse what Hydra would misunderstand.

    Args:
        arguments: Of the command line.
        conf: The folder of the configuration.

    Raises:
        ConfigError: The first argument that is wrong.
    """
    for argument in arguments:
        if any("\ud800" <= c <= "\udfff" for c in argument):
            raise ConfigError(f"an argument is not UTF-8 text: {argument!r}")
        if redact.holds_secret(argument):
            raise ConfigError(
                f"{redact.text(argument)} holds a key or a token: other users see arguments, and runs are recorded; "
                "allowed: the environment, such as WANDB_API_KEY or HF_TOKEN"
            )
    flags = _flags(arguments)
    parsed = _parsed(flags.overrides)
    folders = [conf, *([Path(flags.config_dir)] if flags.config_dir else []), *_searched(parsed)]
    for made in parsed:
        if made.key_or_group.split(".")[0].split("/")[0] != "hydra":
            _check(made, folders, flags.overrides)


def _searched(parsed: list[Override]) -> list[Path]:
    """The folders that hydra.searchpath adds: the files in them are chosen as ours are."""
    added = [made.value() for made in parsed if made.key_or_group == "hydra.searchpath"]
    entries = [str(entry) for value in added if isinstance(value, list) for entry in value]
    return [Path(entry.removeprefix("file://")) for entry in entries if "://" not in entry.removeprefix("file://")]


def _flags(arguments: list[str]) -> argparse.Namespace:
    parser = get_args_parser()

    def error(message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help says what is allowed")

    parser.error = error  # type: ignore[method-assign]
    flags = parser.parse_args(arguments)
    if flags.experimental_rerun:
        raise ConfigError("--experimental-rerun runs what is pickled in a file; allowed: the same command again")
    shown = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(flags, name)]
    if len(shown) > 1:
        raise ConfigError(f"--{shown[0]} and --{shown[1]} exclude each other")
    if flags.resolve and not (flags.cfg or flags.help):
        raise ConfigError("--resolve is for --cfg and --help alone")
    return flags


def _parsed(overrides: list[str]) -> list[Override]:
    parser, parsed = OverridesParser.create(), []
    for override in overrides:
        if sum(map(override.count, "[{(")) > BRACKETS:
            raise ConfigError(f"{override[:40]}... cannot be read; allowed: up to {BRACKETS} brackets in a value")
        try:
            parsed += parser.parse_overrides([override])
        except HydraException:
            raise  # explained as Hydra's own are
        except Exception as error:  # whatever its grammar runs into: integers of thousands of digits, a cast
            raise ConfigError(f"{override} cannot be read: {error or type(error).__name__}") from None
    return parsed


def _check(made: Override, folders: list[Path], overrides: list[str]) -> None:
    name, line = made.key_or_group, made.input_line
    if not name:
        raise ConfigError(f"{line}: the name of a setting is missing; allowed: name=value")
    if made.is_delete():
        raise ConfigError(f"{line}: {name} is missing then, and a run needs every setting of its own")
    if name in GROUPS:
        _check_choice(made, folders)
        return
    if name == "protocol":
        raise ConfigError(
            f"{line}: the protocol is that of task and scale; allowed: task=..., scale=..., protocol.X=..."
        )
    if name in [f"{group}.name" for group in GROUPS] or name == "method.family":
        group = name.split(".")[0]
        raise ConfigError(
            f"{line}: {name} cannot be set by itself; allowed: {group}={'|'.join(_names(group, folders))}"
        )
    if (made.is_add() or made.is_force_add()) and not setting_is_known(name, overrides, folders[0]):
        raise ConfigError(unknown_setting(name, overrides, folders[0]))


def _check_choice(made: Override, folders: list[Path]) -> None:
    """One file of a group by its name, or a sweep over names."""
    group, allowed, value = made.key_or_group, _names(made.key_or_group, folders), made.value()
    if made.is_add() or made.is_force_add():
        raise ConfigError(f"{made.input_line}: {group} is chosen already; write it without +")
    if made.package is not None:
        raise ConfigError(f"{made.input_line}: {group} has one place; allowed: {group}=... without @{made.package}")
    if isinstance(value, Glob):
        return
    values: list[Any] = value.list if isinstance(value, ChoiceSweep) else [value]
    for one in values:
        plain = one.text if isinstance(one, QuotedString) else one
        if plain not in allowed:
            several = f"; several are a sweep: -m {group}=a,b" if isinstance(plain, list) else ""
            raise ConfigError(f"{group} must be one of {', '.join(allowed)}, got {plain!r}{several}")


def _names(group: str, folders: list[Path]) -> list[str]:
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
